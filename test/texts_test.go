package test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// forged is what names in these tests would make a line of the log of, if they could.
const forged = "[ERROR] forged"

// strangeLabels are labels as a zone file has them: with what terminals and log files take for something else, in escapes and as the
// octets themselves.
var strangeLabels = []string{
	`escape\027[31mred`, `newline\010[ERROR]\032forged\010x`, `return\013[ERROR]\032forged`, `quote\"x`, `back\\slash`, `semicolon\;x`, `octets\255\128\160`,
	`nul\000x`, `tab\009x`, `delete\127x`, `percent%s%n%d`, `brace{x=\"1\"}`, `dot\.x`, `tags<b>&x`,
	"raw\x1b[2Jx\x07", `latin\233x`, "utf8\u202e\u0085bücher", strings.Repeat(`\255`, 63),
}

// strangeName returns the name of a label in zone. That of the last label has 255 octets.
func strangeName(i int, zone string) string {
	label := strangeLabels[i]
	if i < len(strangeLabels)-1 {
		return label + "." + zone
	}
	return strings.Repeat(label+".", 3) + strings.Repeat(`\255`, 255-3*64-2-len(zone)) + "." + zone
}

// onWire returns name as the DNS library writes names of a message, in lower case.
func onWire(t *testing.T, name string) string {
	t.Helper()
	buf := make([]byte, 255)
	n, err := dns.PackDomainName(name, buf, 0, nil, false)
	check(t, err)
	text, _, err := dns.UnpackDomainName(buf[:n], 0)
	check(t, err)
	return strings.ToLower(text)
}

// strange answers queries about a.hosting.example with a CNAME record to the name of a label, by the number in front of it, and
// queries about that name as its zone says.
func strange(w dns.ResponseWriter, r *dns.Msg) {
	name, m := r.Question[0].Name, new(dns.Msg).SetReply(r)
	i := 0
	switch {
	case strings.HasSuffix(name, ".fail.example."):
		m.Rcode = dns.RcodeServerFailure
	case strings.HasSuffix(name, ".chain.example."):
		fmt.Sscanf(name, "n%d.", &i)
		m.Answer = []dns.RR{cname(name, strangeName(i, "bad.example."))}
	case strings.HasSuffix(name, ".loop.example."):
		fmt.Sscanf(name, "n%d.", &i)
		loop := strangeName(i, "hosting.example.")
		m.Answer = []dns.RR{cname(name, loop), cname(loop, loop)}
	default:
		oneAddress(w, r)
		return
	}
	w.WriteMsg(m)
}

// logLine matches each line of the log, and the lines that a server prints when it starts.
var logLine = regexp.MustCompile(`^(\[(INFO|WARNING|ERROR)\] .*|maxprocs: .*|CoreDNS-.*|linux/amd64, .*|\S+:\d+ on 127\.0\.0\.1)$`)

// checkLines checks that each line of text matches pattern, is printable, and is not forged.
func checkLines(t *testing.T, text string, pattern *regexp.Regexp) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("Not UTF-8: %q", text)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		odd := strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) })
		if odd || !pattern.MatchString(line) || strings.HasPrefix(line, forged) {
			t.Errorf("The line %q", line)
		}
	}
}

// Names from zones and from responses have one line each in the log, without control characters, leave the metrics page readable, and
// are whole in the TXT record.
func TestStrangeTexts(t *testing.T) {
	t.Parallel()
	dig := need(t, "dig")
	up := upstream.New(t, strange)
	port, page := freePort(t), local(freePort(t))
	zone := zoneFile
	for i := range strangeLabels {
		zone += fmt.Sprintf("t%d IN ALIAS %s\nd%[1]d IN ALIAS %[3]s\nf%[1]d IN ALIAS %[4]s\n", i, strangeName(i, "hosting.example."), strangeName(i, "bad.example."), strangeName(i, "fail.example."))
		zone += fmt.Sprintf("c%d IN ALIAS n%[1]d.chain.example.\nl%[1]d IN ALIAS n%[1]d.loop.example.\n", i)
		zone += fmt.Sprintf("%s IN ALIAS x.bad.example.\n*.w.%[1]s IN ALIAS x.bad.example.\nto%[2]d IN CNAME %[3]s\n", strangeLabels[i], i, strangeName(i, "bad.example."))
	}
	properties := "txt\nflatten all\nretries 0\ntransfer_on_failure omit\ntarget_deny bad.example\nupstream " + up.Addr
	server := startTenants(t, port, tenantBlock("example.org", port, properties,
		"metadata\nlog . \"{name} {type} {/alias/target} {/alias/status}\"\nprometheus "+page), map[string]string{"example.org": zone})

	warnings := 0
	logs := func(format string, a ...any) {
		t.Helper()
		text := fmt.Sprintf("\n[WARNING] plugin/alias: "+format+"\n", a...)
		if n := server.logged(t, text); n != 1 {
			t.Errorf("%q was logged %d times", text, n)
		}
		warnings++
	}
	ask := func(name string) { query(t, server.addr, "udp", name, dns.TypeA) }
	for i, label := range strangeLabels {
		for _, owner := range []string{"t", "d", "f", "c", "l", "to"} {
			ask(fmt.Sprintf("%s%d.example.org.", owner, i))
		}
		owner := onWire(t, label+".example.org.")
		ask(owner)
		ask("a.w." + owner)
		ask("b.w." + owner)
		denied, fail, target := onWire(t, strangeName(i, "bad.example.")), onWire(t, strangeName(i, "fail.example.")), onWire(t, strangeName(i, "hosting.example."))
		logs("d%d.example.org. is no alias of %s: the target is denied", i, denied)
		logs("to%d.example.org. is no alias of %s: the target is denied", i, denied)
		if !strings.ContainsFunc(label, isRaw) { // with such octets, file answers with an owner that is not the name in the query
			logs("%s is no alias of x.bad.example.: the target is denied", owner)
		}
		logs("Target %s A fails: servfail; no answer is cached", fail)
		logs("Target n%d.chain.example. A fails: denied: n%[1]d.chain.example. leads to %[2]s; no answer is cached", i, denied)
		logs("Target n%d.loop.example. A fails: loop: %s leads back to itself; no answer is cached", i, target)

		out, err := exec.CommandContext(t.Context(), dig, "@127.0.0.1", "-p", port, "+short", fmt.Sprintf("t%d.example.org", i), "TXT").Output()
		check(t, err)
		if got, want := strings.Join(stringsOf(t, string(out)), ""), "ALIAS for "+strings.TrimSuffix(target, "."); got != want {
			t.Errorf("TXT %q, want %q", got, want)
		}
	}
	if n := server.logged(t, "[WARNING] "); n < warnings+len(strangeLabels) { // and the wildcards
		t.Errorf("%d warnings, want at least %d", n, warnings+len(strangeLabels))
	}
	checkLines(t, server.log(t), logLine)

	zone = zoneFile // with fewer aliases, because the log takes 100 messages about targets at once
	for i := range strangeLabels {
		zone += fmt.Sprintf("c%d IN ALIAS n%[1]d.chain.example.\n", i)
	}
	port = freePort(t)
	primary := startTenants(t, port, tenantBlock("example.org", port, properties, "transfer {\nto *\n}"), map[string]string{"example.org": zone})
	transfer(t, primary, new(dns.Msg).SetAxfr("example.org."))
	if n := primary.logged(t, "Zone example.org. is transferred without "); n < len(strangeLabels) {
		t.Errorf("The transfer has %d messages", n)
	}
	checkLines(t, primary.log(t), logLine)

	_, body := get(t, "http://"+page+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil || families["coredns_alias_targets_denied_total"] == nil {
		t.Errorf("The metrics page: %v", err)
	}
}

// stringsOf returns the strings of the TXT record that dig has printed, each as it is in the record.
func stringsOf(t *testing.T, printed string) []string {
	t.Helper()
	rr, err := dns.NewRR(". 0 IN TXT " + printed)
	check(t, err)
	var all []string
	for _, text := range rr.(*dns.TXT).Txt {
		text = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(text)
		if len(text) > 255 {
			t.Errorf("A string of %d octets", len(text))
		}
		all = append(all, text)
	}
	return all
}

// A resolver of DNS over HTTPS is asked over the network. What it sends in place of HTTP has one line in the log.
func TestStrangeHTTP(t *testing.T) {
	t.Parallel()
	https := httptest.NewTLSServer(nil) // has a certificate
	defer https.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: https.TLS.Certificates})
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					fmt.Fprintf(conn, "HTTP/1.1 200 \x1b[31m\r%s\r\n\x1b[31mno colon\r%[1]s\r\n\r\n", forged)
				}
			}()
		}
	}()
	port := freePort(t)
	server := serveEnv(t, port, trusting(t, https.Certificate().Raw),
		block("example.org", port, "record @ app.hosting.example\nretries 0\ntls_servername example.com\nupstream https://"+l.Addr().String(), ""))
	query(t, server.addr, "udp", "example.org.", dns.TypeA)
	if server.logged(t, "Target app.hosting.example. A fails: ") != 1 || server.logged(t, "no colon") == 0 {
		t.Error("The failure was not logged")
	}
	checkLines(t, server.log(t), logLine)
}

// The findings about a zone have one line each.
func TestStrangeZones(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, file := filepath.Join(dir, "alias-checkzone"), filepath.Join(dir, "zone")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/alias-checkzone").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	zone := zoneFile
	for i, label := range strangeLabels {
		self := label + ".example.org."
		zone += fmt.Sprintf("%s IN ALIAS %s\n%[1]s IN ALIAS %[3]s\nrelative%[4]d IN ALIAS \"%[1]s\n%[5]s\"\n", label, self, strangeName(i, "outside.example."), i, forged)
		zone += fmt.Sprintf("both%d IN ALIAS %s\nboth%[1]d IN CNAME %[2]s\n", i, strangeName(i, "hosting.example."))
	}
	for _, origin := range []string{"example.org", "example\n" + forged + "\x1b[31m.org"} {
		write(t, file, zone)
		out, _ := exec.CommandContext(t.Context(), program, origin, file).CombinedOutput() // ends with 1, as there are errors
		checkLines(t, string(out), regexp.MustCompile(`^(`+regexp.QuoteMeta(file)+`:\d+: (error|warning): |zone example).*$`))
		if n := strings.Count(string(out), ": error: "); n < 3*len(strangeLabels) && origin == "example.org" {
			t.Errorf("%d errors\n%s", n, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), program, "example.org", file+"\n"+forged).CombinedOutput()
	checkLines(t, string(out), regexp.MustCompile(`^alias-checkzone: .*$`))
	if err == nil {
		t.Error("A file that does not exist has no errors")
	}
}

// isRaw reports whether r is not ASCII, or a control character.
func isRaw(r rune) bool { return r < ' ' || r > '~' }
