package app

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keysidecar/keysidecar/internal/config"
)

// Lines with the same message beyond sampleFirst in a second are thinned out to
// every sampleRest-th: a fault must not fill the disk.
const (
	sampleFirst = 100
	sampleRest  = 100
)

// NewLogger returns the logger that cfg asks for, which writes to w, and what
// changes its level. Times are RFC 3339 in UTC with milliseconds, as on every other
// surface.
func NewLogger(cfg *config.Config, w io.Writer) (*zap.Logger, *Level, error) {
	configured, err := zapcore.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	level := newLevel(configured)
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.MessageKey = "time", "message"
	enc.EncodeTime = func(t time.Time, e zapcore.PrimitiveArrayEncoder) {
		e.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	enc.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if cfg.Log.Format == config.FormatConsole {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level.current)
	return zap.New(zapcore.NewSamplerWithOptions(core, time.Second, sampleFirst, sampleRest)), level, nil
}
