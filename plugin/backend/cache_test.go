package backend_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/coredns/alias/plugin/backend"
)

// However many questions there are, each is asked once within a second, and answers are as many as the size at most.
func TestCacheGrows(t *testing.T) {
	for _, tc := range []struct{ size, questions, most int }{
		{1000, 1, 1}, {1000, 16, 16}, {1000, 17, 17}, {1000, 100, 100}, {1, 100, 1}, {5, 100, 5}, {16, 100, 16}, {17, 100, 17},
	} {
		b := newBackend(t, zone(t), func(cfg *backend.Config) { cfg.Size = tc.size })
		asked := make(map[string]int)
		for range 3 {
			for i := range tc.questions {
				name := fmt.Sprintf("n%d.example.org.", i)
				answer := b.Answer(a(name))
				if answer.Msg == nil || tc.most == tc.questions && b.Answer(a(name)) != answer {
					t.Errorf("%+v: %s has another answer", tc, name)
				}
			}
		}
		for _, q := range b.queries {
			asked[q]++
		}
		if n := b.Len(); n > tc.most || n == 0 {
			t.Errorf("%+v: %d answers are cached", tc, n)
		}
		for q, n := range asked {
			if tc.most == tc.questions && n != 1 {
				t.Errorf("%+v: %s was asked %d times", tc, q, n)
			}
		}
		if len(asked) != tc.questions {
			t.Errorf("%+v: %d questions were asked", tc, len(asked))
		}
	}
}

// Callers that ask at the same time share one query for each question, also while the cache grows.
func TestCacheGrowsShared(t *testing.T) {
	const callers, questions = 8, 64
	b := newBackend(t, zone(t), nil)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := range questions {
				b.Answer(a(fmt.Sprintf("n%d.example.org.", i)))
			}
		})
	}
	all.Wait()
	if n := len(b.queries); n != questions {
		t.Errorf("%d queries for %d questions", n, questions)
	}
	if n := b.Len(); n != questions {
		t.Errorf("%d answers are cached", n)
	}
}
