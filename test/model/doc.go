/*
Package model holds the protocol as Promela models, searches every order of its
steps with Spin, and plants mistakes to see whether the search would notice.

go test makes the short searches and fails where spin or gcc is missing; `make model`
makes all of them and prints a table. README.md says what the models leave out,
for which sizes each promise was searched, and what was learned.
*/
package model
