package rabbit

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrNoURLs is returned by Dial when there is no broker to dial.
var ErrNoURLs = errors.New("no broker URL is configured")

// errURL says no more, for what is wrong with a URL is often its password.
var errURL = errors.New("not a valid amqp:// or amqps:// URL (reserved characters in user and password must be percent-encoded)")

// address is one broker to try.
type address struct {
	uri  amqp.URI
	host string // host:port, all that may be shown
}

func parseAddress(raw string) (address, error) {
	uri, err := amqp.ParseURI(raw)
	if err != nil || uri.Port <= 0 || uri.Port > 65535 {
		return address{}, errURL
	}
	// user:/word@host is a URL too: of the host "user", whose name would be looked
	// up and shown.
	if u, err := url.Parse(raw); err != nil || u.User == nil && strings.Contains(raw, "@") {
		return address{}, errURL
	}
	return address{uri: uri, host: net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))}, nil
}

// auth returns the SASL mechanisms to offer. The library forgets a mechanism's
// password after use, so each attempt needs its own.
func (a address) auth() ([]amqp.Authentication, error) {
	if len(a.uri.AuthMechanism) == 0 {
		return []amqp.Authentication{a.uri.PlainAuth()}, nil
	}
	var offered []amqp.Authentication
	for _, name := range a.uri.AuthMechanism {
		switch name {
		case "plain", "PLAIN":
			offered = append(offered, a.uri.PlainAuth())
		case "amqplain", "AMQPLAIN":
			offered = append(offered, a.uri.AMQPlainAuth())
		case "external", "EXTERNAL":
			offered = append(offered, &amqp.ExternalAuth{})
		default:
			return nil, errors.New("auth_mechanism must be plain, amqplain or external")
		}
	}
	return offered, nil
}

// tls returns the configuration for a handshake with a. base is what the owner
// configured; the URL's parameters (cacertfile, certfile, keyfile,
// server_name_indication) count where it is nil.
func (a address) tls(base *tls.Config) (*tls.Config, error) {
	if base != nil {
		c := base.Clone()
		if c.ServerName == "" {
			c.ServerName = a.uri.Host
		}
		return c, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: a.uri.Host}
	if a.uri.ServerName != "" {
		c.ServerName = a.uri.ServerName
	}
	if a.uri.CACertFile != "" {
		pem, err := os.ReadFile(a.uri.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("read cacertfile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacertfile %s holds no certificate", a.uri.CACertFile)
		}
	}
	if a.uri.CertFile != "" || a.uri.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(a.uri.CertFile, a.uri.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load certfile and keyfile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
