package alias

import (
	"testing"

	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"go.uber.org/goleak"
)

func init() {
	clog.Discard()
	dnsserver.Quiet = true
	dnsserver.Directives = append([]string{"alias"}, dnsserver.Directives...)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
