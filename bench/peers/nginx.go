package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// nginxConf answers every request with the same body from memory.
const nginxConf = `daemon off;
worker_processes %d;
pid %[2]s/pid;
error_log stderr error;
events { worker_connections 1024; }
http {
	access_log off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen unix:%[2]s/s;
		location / { default_type application/json; return 200 '%[3]s'; }
	}
}
`

// startNginx starts nginx with a fixed answer.
func startNginx(ctx context.Context, body []byte) (p *Program, socket string, err error) {
	path, err := find("nginx")
	if err != nil {
		return nil, "", err
	}
	if bytes.ContainsAny(body, `'$\`) {
		return nil, "", fmt.Errorf("nginx would not take this literally: %q", body)
	}
	dir, err := os.MkdirTemp("", "ksnginx")
	if err != nil {
		return nil, "", err
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, runtime.NumCPU(), dir, body), 0o600); err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	socket = filepath.Join(dir, "s")
	p, err = StartProgram(ctx, dir, path, []string{"-p", dir, "-c", conf, "-e", "stderr"}, func() error {
		_, err := ask(ctx, "unix", socket, http, httpGet(keyID(0)))
		return err
	})
	return p, socket, err
}
