package app

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/config"
)

func TestLogLinesAreJSONWithTimesInUTC(t *testing.T) {
	var b bytes.Buffer
	cfg := config.Default()
	log, err := NewLogger(cfg, &b)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("hidden")
	log.Info("seen", zap.Duration("took", 3*time.Second))
	line := b.String()
	if strings.Contains(line, "hidden") || !strings.Contains(line, `"message":"seen"`) || !strings.Contains(line, `"took":"3s"`) ||
		!strings.Contains(line, `Z"`) {
		t.Errorf("have %s", line)
	}
	cfg.Log.Level = "loud"
	if _, err := NewLogger(cfg, &b); err == nil {
		t.Error("accepted an unknown level")
	}
}
