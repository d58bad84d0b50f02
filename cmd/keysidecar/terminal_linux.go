package main

import "golang.org/x/sys/unix"

// getTermios is the request that only terminals answer.
const getTermios = unix.TCGETS
