package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// DefaultPrefix is what the names of keys begin with, unless the location says otherwise.
const DefaultPrefix = "alias"

// How long a connection to the shared store may take to be made, and to answer. Each call has a deadline of its own too.
const (
	dialTimeout = time.Second
	callTimeout = 2 * time.Second
)

// Location says where a shared store is: one Redis or Valkey, those that Sentinel names the master of, or a Cluster. It is
// immutable. Its text never has a password.
type Location struct {
	Prefix string // of the names of all keys

	urls   []*url.URL
	master string // the name that Sentinel has for the servers, or ""
}

// ParseLocation reads the arguments of a location: the address of a server, redis://, rediss:// (TLS) or unix://, as go-redis
// reads it (https://pkg.go.dev/github.com/redis/go-redis/v9#ParseURL); or several addresses, of the servers of a Cluster or,
// with master=NAME, of the Sentinels
// (see ParseClusterURL and ParseFailoverURL there). prefix=NAME begins the names of all keys. The error tells what is wrong with which
// argument, without its password.
func ParseLocation(args []string) (Location, error) {
	l := Location{Prefix: DefaultPrefix}
	for _, arg := range args {
		name, value, isOption := strings.Cut(arg, "=")
		switch {
		case isOption && name == "master" && value != "":
			l.master = value
		case isOption && name == "prefix" && isPrefix(value):
			l.Prefix = value
		case isOption && name == "prefix":
			return l, fmt.Errorf("'%s' is no prefix: it may have letters, digits, '-', '_', '.' and ':'", arg)
		case isOption && !strings.Contains(name, "://"):
			return l, fmt.Errorf("'%s' is neither an address nor master=NAME nor prefix=NAME", Redacted(arg))
		default:
			u, err := parseURL(arg)
			if err != nil {
				return l, err
			}
			l.urls = append(l.urls, u)
		}
	}
	if len(l.urls) == 0 {
		return l, errors.New("there is no address")
	}
	client, err := l.client()
	if err != nil {
		return l, fmt.Errorf("'%s' cannot be used: %w", l, withoutURL(err))
	}
	return l, client.Close()
}

func isPrefix(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.:", r))
	})
}

// parseURL parses one address. The error has no password.
func parseURL(arg string) (*url.URL, error) {
	u, err := url.Parse(arg)
	if err != nil {
		return nil, fmt.Errorf("'%s' is no address: %w", Redacted(arg), withoutURL(err))
	}
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return nil, fmt.Errorf("'%s' has to begin with redis://, rediss:// or unix://", Redacted(arg))
	case u.Scheme == "unix" && u.Path == "":
		return nil, fmt.Errorf("'%s' has no path", Redacted(arg))
	case u.Scheme != "unix" && u.Hostname() == "":
		return nil, fmt.Errorf("'%s' has no host", Redacted(arg))
	}
	return u, nil
}

// withoutURL returns what is wrong in err, an error of net/url, without the address, which has the password.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// Redacted returns an argument of a location without its user, its password and its options. Of one that cannot be parsed, and may
// have any of these, it returns the scheme alone.
func Redacted(arg string) string {
	u, err := url.Parse(arg)
	switch {
	case err == nil && u.Host+u.Path != "":
		shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
		if u.User != nil {
			shown.User = url.User("***")
		}
		return strings.ReplaceAll(shown.String(), "%2A", "*")
	case !strings.ContainsAny(arg, "@?"):
		return arg
	}
	scheme, _, _ := strings.Cut(arg, "://")
	return scheme + "://***"
}

// String returns the addresses without users and passwords, for messages.
func (l Location) String() string {
	var s []string
	for _, u := range l.urls {
		s = append(s, Redacted(u.String()))
	}
	return strings.Join(s, " ")
}

// client returns a client for the location. It does not connect yet.
func (l Location) client() (redis.UniversalClient, error) {
	first := *l.urls[0]
	q := first.Query()
	for _, u := range l.urls[1:] {
		if u.Scheme != first.Scheme || u.User.String() != first.User.String() {
			return nil, errors.New("all addresses need the same scheme, user and password")
		}
		q.Add("addr", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), first.Port(), "6379")))
	}
	switch {
	case l.master != "":
		q.Set("master_name", l.master)
		first.RawQuery = q.Encode()
		o, err := redis.ParseFailoverURL(first.String())
		if err != nil {
			return nil, err
		}
		setTimeouts(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		o.MaxRetries, o.DialerRetries, o.ContextTimeoutEnabled = -1, 1, true
		return redis.NewFailoverClient(o), nil
	case len(l.urls) > 1:
		first.RawQuery = q.Encode()
		o, err := redis.ParseClusterURL(first.String())
		if err != nil {
			return nil, err
		}
		setTimeouts(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		o.MaxRetries, o.DialerRetries, o.ContextTimeoutEnabled, o.MaintNotificationsConfig = -1, 1, true, withoutNotifications()
		return redis.NewClusterClient(o), nil
	default:
		o, err := redis.ParseURL(first.String())
		if err != nil {
			return nil, err
		}
		setTimeouts(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout)
		o.MaxRetries, o.DialerRetries, o.ContextTimeoutEnabled, o.MaintNotificationsConfig = -1, 1, true, withoutNotifications()
		return redis.NewClient(o), nil
	}
}

// withoutNotifications turns off a feature of a hosted Redis that others do not know, and that each connection would ask for.
func withoutNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// setTimeouts sets the timeouts that the address does not set.
func setTimeouts(dial, read, write *time.Duration) {
	*dial = cmp.Or(*dial, dialTimeout)
	*read, *write = cmp.Or(*read, callTimeout), cmp.Or(*write, callTimeout)
}

// silent keeps the client from writing to standard error: what fails is logged once, by gate.
type silent struct{}

// Printf implements the logger of go-redis.
func (silent) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(silent{}) }

// Registers returns the registers in the store at l.
func (l Location) Registers() *Registers {
	client, err := l.client()
	if err != nil {
		panic(err) // ParseLocation has made one
	}
	return NewRegisters(client, l.Prefix)
}
