// Package model holds the protocol as Promela models, and searches them with Spin.
package model
