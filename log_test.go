package alias

import (
	"slices"
	"testing"

	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"go.uber.org/goleak"
)

func init() {
	clog.Discard()
	dnsserver.Quiet = true
	dnsserver.Directives = slices.Insert(dnsserver.Directives, slices.Index(dnsserver.Directives, "transfer")+1, "alias")
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
