package statuspage

// Levels of a state. Each has a colour, and a sign for whoever does not see colours.
const (
	good = "good"
	warn = "warn"
	bad  = "bad"
	idle = "idle"
)

// Note says what is not as it should be, and what to do.
type Note struct {
	// Level is good, warn, bad or idle.
	Level string
	// Text says what it means, Do what to do.
	Text, Do string
	// Runbook is a heading of docs/operations.md.
	Runbook string
}

// Headings of docs/operations.md.
const (
	runLapsed   = "KeysidecarFreshnessLapsed"
	runCapture  = "KeysidecarCaptureLost"
	runDrift    = "KeysidecarDriftFound"
	runLeader   = "KeysidecarNoLeader"
	runLag      = "KeysidecarRelayLag"
	runFastPath = "KeysidecarFastPathDegraded"
	runBroker   = "KeysidecarBrokerDisconnected"
	runBehind   = "KeysidecarSidecarsBehind"
	runGate     = "KeysidecarGateHeld"
	runReceipts = "KeysidecarReceiptsSlow"
	runVersions = "KeysidecarVersionSkew"
	runWrong    = "When something is wrong"
)

// fenceNote explains why a sidecar's last fence failed.
func fenceNote(category, store string) Note {
	switch category {
	case "unreachable":
		return Note{bad, "Postgres cannot be reached.", "Mend Postgres or the way to it. The sidecar comes back by itself; restarting it makes it load everything anew.", runLapsed}
	case "timeout":
		return Note{bad, "Postgres does not answer in time.", "Look at its load and at the network. The sidecar comes back by itself.", runLapsed}
	case "standby":
		return Note{bad, "The address leads to a Postgres server in recovery.", "Point it at the primary.", runLapsed}
	case "capture_lost":
		return Note{bad, "A capture trigger is missing, disabled or not ENABLE ALWAYS: changes of keys would not be told.", "Put it back, then SELECT keysidecar.reset().", runCapture}
	case "unregistered":
		return Note{bad, "This sidecar is not in the registry.", "It registers again by itself. If it stays: with fleet.report off, the database must allow its bound (keysidecar.allow_unreported).", runWrong}
	case "schema":
		return Note{bad, "Tables, columns or rights are missing.", "Run keysidecar migrate, and grant the role.", runWrong}
	case "history_over":
		return Note{warn, "The log was rewound by a failover or a restore. Everything is being loaded anew.", "Nothing, if it passes.", runWrong}
	case "reset":
		return Note{warn, "The log says that everything was reset. Everything is being loaded anew.", "Nothing, if it passes.", runWrong}
	case "bad_row":
		return Note{bad, "The relation has a row that cannot be used.", "The log of this process names it. Mend the view.", runWrong}
	case "file":
		return Note{bad, "The key file cannot be read or used.", "The log of this process says what is wrong with it.", runWrong}
	}
	if store == "file" {
		return Note{bad, "The key file could not be read.", "The log of this process says why.", runWrong}
	}
	return Note{bad, "Postgres could not be asked.", "The log of this process says why.", runLapsed}
}

// brokerWords explains why there is no connection to RabbitMQ.
func brokerWords(category string) string {
	switch category {
	case "no_url":
		return "no address is configured"
	case "bad_url":
		return "the address cannot be read"
	case "unreachable":
		return "it cannot be reached"
	case "tls":
		return "the certificates do not fit"
	case "auth":
		return "user or password was refused"
	case "vhost":
		return "the virtual host is not open to this user"
	case "permission":
		return "the user lacks a right"
	case "not_found":
		return "exchange or queue is missing"
	case "precondition":
		return "exchange or queue exists with other properties"
	case "timeout":
		return "it does not answer in time"
	case "broker_closed":
		return "it closed the connection"
	case "connection_lost":
		return "the connection was lost"
	case "queue_lost":
		return "the queue was deleted"
	case "":
		return "connecting"
	}
	return "an internal error; the log of this process has it"
}

// databaseNote explains why a relay has no database.
func databaseNote(category string) Note {
	n := Note{Level: bad, Runbook: runLeader}
	switch category {
	case "standby":
		n.Text, n.Do = "The relay's address leads to a Postgres server in recovery.", "Point relay.dsn at the primary."
	case "pooled":
		n.Text, n.Do = "The relay reaches Postgres through a pooler.", "It needs a direct connection: relay.dsn."
	case "bad_dsn":
		n.Text, n.Do = "The relay's connection string cannot be read.", "Mend relay.dsn."
	case "timeout", "connection":
		n.Text, n.Do = "This relay cannot reach Postgres, so it cannot say how the fleet is.", "Mend Postgres or the way to it. Until then nothing is published; sidecars with a way of their own go on."
	default:
		n.Text, n.Do = "Postgres refused this relay ("+category+").", "Its log says why: rights, password, or a schema that is not migrated."
	}
	return n
}

// kindWords says what an event was.
func kindWords(kind string) string {
	switch kind {
	case "issued":
		return "Key issued"
	case "changed":
		return "Key changed"
	case "revoked":
		return "Key revoked"
	case "deleted":
		return "Key deleted"
	case "owner_changed":
		return "Owner changed"
	case "reset":
		return "Everything reset"
	case "genesis":
		return "Log begun"
	}
	return kind
}

// ends reports whether an event of this kind takes trust away, or may.
func ends(kind string) bool { return kind != "issued" && kind != "genesis" }
