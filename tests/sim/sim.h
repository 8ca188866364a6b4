/*
 * A seeded cluster in one process: nodes with the real cache and replicator, regions in memory, a
 * virtual clock. Everything that happens follows from the seed.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "cache/cache.h"
#include "cache/file.h"
#include "replicator/replicator.h"
#include "src/base/hash.h"
#include "src/base/random.h"

#define SIM_NODES_MAX 4
#define SIM_REGIONS_MAX 3
#define SIM_OPEN_MAX 3
#define SIM_INLINE_MAX 64

struct sim_region {
	struct store *mem; /* the bucket; shared by all nodes' links */
	struct store *removed; /* segments that a checkpoint made superfluous, for the oracle */
	bool down;
	int64_t slow_ms; /* each request takes so long */
};

struct sim_node {
	char dir[128];
	struct cache *cache;
	struct replicator *replicator;
	unsigned home;
	int64_t skew_ms;
	int64_t own_skew_ms;		 /* without jumps */
	struct file *open[SIM_OPEN_MAX]; /* files that the application keeps open for writing */
	bool unseen[SIM_OPEN_MAX];	 /* and writes on without telling */
	/* a step of this node is on the stack: interleaving must not enter it again */
	bool running;
	bool dead; /* for good; its cache stays open for who looks into it */
	bool cut[SIM_REGIONS_MAX];
};

struct sim {
	uint64_t seed;
	bool verbose;
	unsigned nodes;
	unsigned regions;
	bool optional; /* the last one is */
	struct sim_node node[SIM_NODES_MAX];
	struct sim_region region[SIM_REGIONS_MAX];
	int64_t now_ms;
	unsigned current; /* node whose clock is read */
	unsigned capabilities;
	bool large; /* most files are over inline_max */
	bool rename_dirs;
	bool foreign; /* other tools write into the buckets */
	bool push_copy;
	bool dated;		     /* answers tell the time, and nodes' clocks jump by an hour */
	unsigned fault_percent;	     /* of requests, while not healed */
	unsigned interleave_percent; /* of requests during which another node takes a step */
	bool healed;
	uint64_t writes; /* makes each content unique */
	unsigned link_percent;
	uint64_t shared; /* pairs of names that had to be one inode in the end */
	struct sim_replaced *replaced;
	bool crowded; /* the last events: see sim_app_crowd */
	struct sim_unseen *unseen; /* NULL: nobody writes unseen */
	struct sim_marker *marker;
	struct sim_renamed *renamed;
	uint64_t requests;
	uint64_t lost_begins; /* answers to beginnings of uploads */
	bool checkpoints;     /* are written, segments go, and servers are away or join */
	bool mortal;	      /* servers die for good instead of being away */
	bool completed; /* somebody announced again what a silent server had said */
	unsigned deaths;
	unsigned last_words; /* how often those who are left were made to look for the dead */
};

/* sim_net.c: a node's link to a region: faults, lost answers, late requests, interleaving. */
struct store *sim_link_new(struct sim *s, unsigned node, unsigned region);
/* Lets requests whose answer was lost arrive at last. */
void sim_net_deliver_late(struct sim *s, bool all);
void sim_net_done(struct sim *s);

static inline bool sim_chance(unsigned percent)
{
	return random_below(100) < percent;
}
/* sim.c */
void sim_trace(struct sim *s, const char *fmt, ...) PRINTF(2, 3);
_Noreturn void sim_fail(struct sim *s, const char *fmt, ...) PRINTF(2, 3);

/* sim_step.c: brings evicted, or never fetched, content of an idle node here; as replicator_step_fetch. */
int sim_fetch(struct sim *s, unsigned n, uint64_t ino) MUST_CHECK;
/* Whatever may go of some paths' content. */
int sim_evict_some(struct sim *s, unsigned n, bool *did) MUST_CHECK;
/* One replication step of a node, by number, unless one is under way; true: it did something. */
bool sim_step(struct sim *s, unsigned n, unsigned which);
/* One random replication step of a random idle node. */
void sim_random_step(struct sim *s);

/* sim_app.c: one random operation of an application. */
void sim_app_event(struct sim *s, unsigned n);
/* One node changes files again and again that another one has open and writes to unseen, while it
 * merges them. */
void sim_app_crowd(struct sim *s);

/* sim_order.c: pairs of files of which one announces the other. Checked after every pull. */
void sim_order_write(struct sim *s, unsigned n);
void sim_order_check(struct sim *s, unsigned n);
uint64_t sim_order_checks(void); /* how often there was something to compare */
void sim_order_done(void);

/* sim_marker.c: directories of each node's own in which files wander. Checked after every pull. */
void sim_marker_begin(struct sim *s);
void sim_marker_event(struct sim *s, unsigned n);
void sim_marker_check(struct sim *s, unsigned n);
uint64_t sim_marker_checks(void); /* how many files there were to look at */
void sim_marker_done(struct sim *s);
/* What the node sees of others is what they announced, in their order. */
bool sim_marker_ordered(struct sim *s, unsigned n);

/* sim_renamed.c: a directory of each node's own that gets other names. Checked after every pull. */
void sim_renamed_begin(struct sim *s);
void sim_renamed_event(struct sim *s, unsigned n);
void sim_renamed_check(struct sim *s, unsigned n);
bool sim_renamed_happened(void);
void sim_renamed_done(struct sim *s);

/* sim_flow.c: regions get slow; a node watches its regions, and leaves and takes back some. */
void sim_flow_event(struct sim *s, unsigned n, unsigned r);
/* Requests of copies whose source is in another region's bucket (push = copy). */
enum store_result sim_flow_copy(struct sim *s, unsigned region, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error);
enum store_result sim_flow_copy_part(struct sim *s, unsigned region, const struct store_upload *u,
	const struct store_call *call, struct store_error *error);
extern const char *const sim_origins[SIM_REGIONS_MAX];
void sim_flow_heal(struct sim *s);
bool sim_flow_happened(void);

/* sim_lazy.c: a node reads some blocks of a file, or fetches one that nobody asked for. */
void sim_lazy_event(struct sim *s, unsigned n);
/* Content can be read by ranges, or is fetched whole. */
void sim_lazy_on(struct sim *s, unsigned n, bool on);
bool sim_lazy_happened(void);
bool sim_lazy_refused(void); /* some wrong bytes */
/* Content from this size on has hashes of its parts. */
#define SIM_PARTS_MIN 65
/* What a node gets of an object: wrong bytes now and then, where it can find that out. sink: what the
 * store is to write to, ret memory for it. */
struct sim_wrong_sink {
	struct store_sink sink;
	const struct store_sink *to;
	uint64_t at, wrong; /* bytes */
};
const struct store_sink *sim_lazy_sink(const struct sim *s, unsigned n, const char *key,
	uint64_t length, const struct store_sink *sink, struct sim_wrong_sink *ret);

/* Those that applications use (sim_app.c). */
#define SIM_PATHS 9
extern const char *const sim_paths[SIM_PATHS];

/* sim_delta.c: what is there is read, which brings it here; a file is changed a little. */
void sim_delta_read(struct sim *s, unsigned n);
void sim_delta_append(struct sim *s, unsigned n);

/* sim_replaced.c: versions of files that an application replaced or removed where it saw them. */
void sim_replaced_before(struct sim *s, unsigned n); /* its operation on the node's tree */
void sim_replaced_after(struct sim *s, unsigned n);
/* Before the node seals or merges: looks up which versions they were. Not sooner: a reader commits
 * the group of operations, which a crash shall find open. */
void sim_replaced_settle(struct sim *s, unsigned n);
bool sim_was_replaced(const struct sim *s, struct slice key, struct stamp stamp);
void sim_replaced_done(struct sim *s);

/* sim_optional.c: a region that nothing waits for. */
bool sim_is_optional(const struct sim *s, unsigned region);
void sim_optional_options(const struct sim *s, struct replicator_options *o);
/* An upkeep step; true: there is more to do. */
bool sim_optional_step(struct sim *s, unsigned n);
bool sim_optional_happened(void);

/* sim_durability.c: fsync that waits for regions, of a file that was just synced here. */
#define SIM_DURABILITY_MS 30000 /* the replicator's default limit */
void sim_durability_sync(struct sim *s, unsigned n, const char *path, uint64_t ino);
bool sim_durability_step(struct sim *s, unsigned n);
void sim_durability_done(struct sim *s); /* every wait was answered */
uint64_t sim_durability_kept(void);	 /* promises that were looked after */

/* sim_unseen.c: writes of programs that the cache does not see, at any moment of a step. */
void sim_unseen_begin(struct sim *s);
/* A file that is open for writing: true when it is to be kept open, and written unseen. */
bool sim_unseen_open(struct sim *s, struct file *file);
/* Whether the application opens a file for that. */
bool sim_unseen_takes(struct sim *s);
void sim_unseen_write(struct sim *s, unsigned n, struct file *file);
void sim_unseen_tick(struct sim *s);			      /* a step reads the clock */
void sim_unseen_forget(struct sim *s, unsigned n, uint64_t ino); /* it is written over */
void sim_unseen_before(struct sim *s, unsigned n);	      /* an operation on the node's tree */
void sim_unseen_after(struct sim *s, unsigned n);
/* What the node has learnt of others may be in no segment: it came with a checkpoint, or from an object. */
void sim_unseen_learnt(struct sim *s, unsigned n);
void sim_unseen_published(struct sim *s, const uint8_t hash[SHA256_SIZE]);
void sim_unseen_check(struct sim *s);
uint64_t sim_unseen_checks(void);
void sim_unseen_done(struct sim *s);

/* sim_foreign.c: what another tool does to a bucket, and a scan for it. True: it found something, or left
 * something for the next one. */
void sim_foreign_event(struct sim *s);
bool sim_foreign_scan(struct sim *s, unsigned n, unsigned region);
uint64_t sim_foreign_found(void);
/* sim.c: what sim_checkpoint.c needs: one random event that other nodes than n take part in. */
void sim_event_without(struct sim *s, unsigned n);
void sim_node_open(struct sim *s, unsigned n);

/* sim_checkpoint.c: checkpoints are written and segments removed while a server is away; servers join. */
void sim_checkpoint_options(struct sim *s, struct replicator_options *o);
int sim_checkpoint_step(struct sim *s, unsigned n, bool *did) MUST_CHECK;
void sim_checkpoint_event(struct sim *s);
/* At rest after healing: true when those who are left were given the time to find out who is dead. */
bool sim_checkpoint_last_words(struct sim *s);
/* Before a key of r is removed. */
void sim_checkpoint_removing(struct sim *s, unsigned r, const char *key);

/* sim_net.c: uploads in parts came to their end, parts of some failed, and answers to ends were lost. */
bool sim_net_uploads_broke(void);

/* sim_covered.c: before n removes a key of r. */
void sim_covered_removing(
	struct sim *s, unsigned n, unsigned r, const char *key, const char *if_match);
uint64_t sim_covered_checks(void);

/* sim_clock.c: times that buckets tell, and clocks that jump. */
void sim_clock_answer(struct sim *s, struct store *store);
void sim_clock_event(struct sim *s, unsigned n);

/* sim_check.c: after healing, everything must agree; fails with sim_fail. */
void sim_check(struct sim *s);

#endif
