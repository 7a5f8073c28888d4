package alias

import (
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/store"
)

// serials has the fleets that this process publishes serial numbers with. There is one for each store, also after a reload: two
// would be two servers, which make different numbers.
var serials fleets

// fleets has fleets by the arguments of share. They are kept until the process ends. It is safe for concurrent use.
type fleets struct {
	mu  sync.Mutex
	all map[string]*primary.Fleet
}

// of returns the fleet with those arguments of share, and nil when there are none.
func (fs *fleets) of(args []string) *primary.Fleet {
	if len(args) == 0 {
		return nil
	}
	key := strings.Join(args, " ")
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.all == nil {
		fs.all = make(map[string]*primary.Fleet)
	}
	if fs.all[key] == nil {
		location, err := store.ParseLocation(args)
		if err != nil {
			panic(err) // it was parsed before
		}
		fs.all[key] = primary.NewFleet(location.Registers(), time.Now, (&onceLog{max: maxWarnings}).warnOnce)
	}
	return fs.all[key]
}
