package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// BrokerTLS returns how to speak TLS to amqps brokers; nil leaves it to the
// parameters of the URLs and the system's authorities. The client certificate is
// read anew at each handshake; the authorities once.
func (c *Config) BrokerTLS() (*tls.Config, error) {
	if c.AMQP.CAFile == "" && c.AMQP.CertFile == "" {
		return nil, nil //nolint:nilnil // nothing to say is no mistake
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if name := c.AMQP.CAFile; name != "" {
		pem, err := readFile(name, MaxFileBytes)
		if err != nil {
			return nil, fmt.Errorf("amqp.ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("amqp.ca_file: %s holds no PEM certificate", name)
		}
	}
	if c.AMQP.CertFile == "" || c.AMQP.KeyFile == "" {
		return conf, nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(c.AMQP.CertFile, c.AMQP.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("amqp.cert_file, amqp.key_file: %w", err)
		}
		return &cert, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return conf, nil
}
