package answers

import "github.com/coredns/alias/plugin/lookup"

// Indexed returns how many networks are indexed for q.
func (es *Entries) Indexed(q lookup.Question) int {
	if ns := es.networksOf(q); ns != nil {
		return len(ns.all)
	}
	return 0
}

// ReadKey returns the question of a record with that key.
func ReadKey(key string) (q lookup.Question, ok bool) { return readKey(key) }
