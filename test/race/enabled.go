//go:build race

package race

func init() { Enabled = true }
