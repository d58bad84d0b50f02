// Package browser looks at the status pages as people do: real relays and sidecars on
// a real Postgres and RabbitMQ, in a real Chromium without a window. It fails on an
// error in the console, a violation of the content security policy, a page that is
// wider than its window, or one that does not follow what happens. With SCREENSHOTS
// set to a folder it also takes the pictures of docs/operations.md.
//
// It is a module of its own, so that the program's go.mod does not name the browser's
// driver.
package browser
