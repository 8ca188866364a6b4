/*
 * Regions: for each its store, whether it may be talked to now, and the volume that all share.
 *
 * Nothing is sent to or read from a region before its check (volume.json, then the probe of
 * capabilities). All functions are thread-safe; none holds a lock while it talks to a store.
 */
#ifndef REPLICATOR_REGION_H
#define REPLICATOR_REGION_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "cache/region.h"
#include "cache/resync.h"
#include "replicator/health.h"
#include "replicator/store/store.h"
#include "src/base/thread.h"

#define VOLUME_KEY ".meridian/volume.json"
#define VOLUME_FORMAT 1
#define VOLUME_ID_SIZE 33 /* 32 hexadecimal digits and NUL */

enum region_use { REGION_READ, REGION_WRITE };

enum region_state {
	REGION_DOWN, /* not checked yet, or failing: checked again when retry_ms has come */
	REGION_UP,
	REGION_REFUSED, /* another volume's bucket or a newer format: checked again, too */
};

struct regions;

struct region {
	struct regions *all;
	struct store *store;
	unsigned id; /* the cache's number for it */
	char name[REGION_NAME_SIZE];
	char url[256];
	bool home;
	const char *home_origin; /* push = copy: the home region's store_origin; else NULL */
	bool apart; /* push = copy, and its store has nothing to do with the home region's */
	atomic_bool copy_refused;
	bool optional; /* constant, as the next */
	struct resync_bound bound;
	_Atomic uint64_t bytes_copied; /* contents that its store copied and that were not sent */
	_Atomic uint64_t wrong_bytes;  /* times that its objects were not what they say they are */

	struct mutex lock; /* leaf; guards everything below */
	enum region_state state;
	bool checking; /* somebody is at it */
	bool checked;  /* volume.json was read and fits */
	bool probed;   /* capabilities are known */
	bool used;     /* now or in an earlier run: as region_used */
	bool refusal_logged;
	unsigned failures;	/* consecutive passing ones while up */
	unsigned opens;		/* times the breaker opened since the last success */
	unsigned write_opens;	/* likewise for denied writes */
	int64_t retry_ms;	/* monotonic; while not up */
	int64_t write_retry_ms; /* monotonic; writes were denied: not before */
	int64_t last_ok_ms;	/* realtime */
	char error[256];
	char copy_error[256]; /* why copy_refused */
	struct health health;
};

struct regions {
	struct cache *cache;
	char volume[128]; /* name, for messages and volume.json */
	unsigned count;
	struct region region[REGION_MAX];
	int64_t max_clock_skew_ms; /* see region_clock.c */
	atomic_bool clock_wrong;   /* this machine's is, and was logged */
	atomic_bool cancel; /* ends every request under way */
	/* Times that a region was left or taken back: who reads from one for longer asks anew whom to
	 * read from when it changes. */
	atomic_uint turns;
	/* Told when a region came up; may not block. */
	void (*changed)(void *ctx);
	void *changed_ctx;

	struct mutex lock; /* leaf; guards the two below */
	bool founding;	   /* somebody finds or makes the volume's id */
	char volume_id[VOLUME_ID_SIZE];
};

/* Embedded; all is zeroed memory with cache, volume and the regions' store, id, name, url, home
 * filled in. */
int regions_init(struct regions *all) MUST_CHECK;
void regions_done(struct regions *all); /* closes the stores */

/* True when the region may be used now. While it is not up and its time has come this makes the
 * check itself (it is the half-open probe: at most 10 s), unless another thread is at it. */
bool region_begin(struct region *r, enum region_use use) MUST_CHECK;
/* The same without ever talking to it. */
bool region_up(struct region *r, enum region_use use) MUST_CHECK;
/* Its bucket was seen to be this volume's, now or in an earlier run. */
bool region_is_used(struct region *r) MUST_CHECK;
/* Reports how a use that began ended: an answer of any sort closes the breaker's count, passing
 * failures open it, a denied write stops writes only. what names the request, for the text. */
void region_end(struct region *r, enum region_use use, enum store_result result,
	const struct store_error *error, const char *what);
/* The check at once, until deadline_ms (monotonic). 0: up. -EACCES, -EMEDIUMTYPE, -EPROTONOSUPPORT:
 * will not heal by itself; -ENODEV: it was used before, and now there is no volume; -EHOSTDOWN: did
 * not answer; -EAGAIN: another thread is at it. */
int region_check(struct region *r, int64_t deadline_ms, struct err *err) MUST_CHECK;

/* The cancel flag and a deadline in which size bytes can pass. */
struct store_call region_call(const struct region *r, uint64_t size);
/* Of a segment, or of a listing of them. */
struct store_call region_call_urgent(const struct region *r, uint64_t size);
/* "WHAT: timeout: text" for operators. */
void store_failure_text(char *text, size_t size, const char *what, enum store_result result,
	const struct store_error *error);

/* region_clock.c: compares this machine's clock with those of the regions, for the stamps. Called after
 * requests, at least once a second while there are any. Any thread. */
void regions_compare_clocks(struct regions *all);

/* volume.c: reads, compares or creates volume.json of a region; errors as of region_check. */
int volume_check(struct region *r, int64_t deadline_ms, struct err *err) MUST_CHECK;
/* For an operator who fills a bucket again: puts volume.json there where it is gone, has the region seeded again
 * (region_seed_again), and checks it. */
int volume_put_back(struct region *r, int64_t deadline_ms, struct err *err) MUST_CHECK;

#endif
