// Package rabbit holds one connection to RabbitMQ from its dialling to its end.
// The subscriber and the relay share it; what flows over it is theirs.
//
// # One life
//
// A Session is one connection and never comes back: its owner dials a new one,
// with new channels, so that a delivery tag, a confirm or a queue of an earlier
// life cannot be mistaken for one of the present. The library's own recovery
// (amqp.Config.Recovery) stays off: it declares a lost queue again without a
// word and sends acknowledgements of the old life on the new connection.
//
// # Nothing hangs
//
// The library has no time-outs of its own. A publisher that is blocked in a
// write holds a lock that its shutdown needs, so that not even
// Connection.CloseDeadline returns when the peer has gone silent. What always
// helps is to close the socket beneath it. A Session therefore keeps the
// net.Conn and closes it as soon as
//   - the library reports the connection's end (NotifyClose: no frame for 1.5
//     heartbeats, or the broker's own close),
//   - a request made through Call has no answer within RPCTimeout,
//   - its owner calls Fail or Close.
//
// # Bounded input
//
// AMQP bounds frames but not messages, and the library collects a message
// whatever its size. With MaxMessageBytes set, a larger message arrives with an
// empty body, so that whoever may publish cannot make its readers run out of
// memory.
//
// # Rotation
//
// URLs, authorities, client certificates and keys are asked for at every attempt
// (Options.URLs, Options.TLS). A Session keeps what it began with.
//
// # Secrets
//
// URLs hold passwords. No error and no log line of this package contains a URL
// or any part of one but host and port.
package rabbit
