package main

import (
	"os"
	"strconv"
	"time"
)

// The drills compile this into a server whose package time has a variable Ahead: the seconds by which the wall clock is ahead.
// They are in a file, which the test may change at any time.
func init() {
	readClock()
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			readClock()
		}
	}()
}

func readClock() {
	text, err := os.ReadFile(os.Getenv("DRILL_CLOCK"))
	if err != nil {
		panic(err)
	}
	if seconds, err := strconv.ParseInt(string(text), 10, 64); err == nil { // otherwise the test is writing it
		time.Ahead.Store(seconds)
	}
}
