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
	log, _, err := NewLogger(cfg, &b)
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
	if _, _, err := NewLogger(cfg, &b); err == nil {
		t.Error("accepted an unknown level")
	}
}

// Whoever raised the level to look at something must get the old one back, and must
// see from the log itself that it was changed, whatever was configured.
func TestTheLogLevelChangesSilentlyOrDoesNotComeBack(t *testing.T) {
	for _, configured := range []string{"debug", "info", "warn", "error"} {
		var b bytes.Buffer
		cfg := config.Default()
		cfg.Log.Level = configured
		log, level, err := NewLogger(cfg, &b)
		if err != nil {
			t.Fatal(err)
		}
		level.toggle(log)
		if line := b.String(); configured != "debug" && !strings.Contains(line, `"from":"`+configured+`","to":"debug"`) {
			t.Errorf("%s: have %s", configured, line)
		}
		log.Debug("detail")
		if configured != "debug" && !strings.Contains(b.String(), "detail") {
			t.Errorf("%s: debug lines are not written", configured)
		}
		b.Reset()
		level.toggle(log)
		if line := b.String(); !strings.Contains(line, `"to":"`+configured+`"`) || !strings.Contains(line, "log level changed") {
			t.Errorf("%s: have %s", configured, line)
		}
		b.Reset()
		log.Debug("detail")
		if configured != "debug" && b.Len() > 0 {
			t.Errorf("%s: debug lines are still written", configured)
		}
	}
}
