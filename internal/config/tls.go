package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// BrokerTLS returns how to speak TLS to amqps brokers; nil leaves it to the
// parameters of the URLs and the system's authorities. It reads every file anew
// at each call, so that a reconnect uses the present authorities, certificate and
// key.
func (c *Config) BrokerTLS() (*tls.Config, error) {
	if c.AMQP.CAFile == "" && c.AMQP.CertFile == "" {
		return nil, nil //nolint:nilnil // nothing to say is no mistake
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if name := c.AMQP.CAFile; name != "" {
		pem, err := readNamed("amqp.ca_file", name, MaxFileBytes)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("amqp.ca_file: %s holds no PEM certificate", name)
		}
	}
	if c.AMQP.CertFile == "" || c.AMQP.KeyFile == "" {
		return conf, nil
	}
	cert, err := c.brokerCertificate()
	if err != nil {
		return nil, err
	}
	conf.Certificates = []tls.Certificate{cert}
	return conf, nil
}

// brokerCertificate returns the client certificate and its key. Renewing them
// replaces two files one after the other, so that between them the pair does not
// match: that attempt fails, and the next one finds both.
func (c *Config) brokerCertificate() (tls.Certificate, error) {
	certPEM, err := readNamed("amqp.cert_file", c.AMQP.CertFile, MaxFileBytes)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readNamed("amqp.key_file", c.AMQP.KeyFile, MaxFileBytes)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("amqp.cert_file, amqp.key_file: %w", err)
	}
	return cert, nil
}
