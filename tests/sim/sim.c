/*
 * sim [--seeds N] [--first S] [--seed S] [--verbose]: runs seeded clusters; see sim.h.
 *
 * A failure prints its seed; `sim --seed S --verbose` repeats it with a trace.
 */
#include "tests/sim/sim.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"
#include "src/base/random.h"
#include "tests/sim/store_mem.h"
#include "replicator/store/layers.h"

/* Most of what is not inlined goes in parts. */
static const struct store_limits small_limits = {
	.put_max = 100, .object_max = 4096, .part_min = 8, .part_max = 40, .parts_max = 100};
#define EPOCH_MS 1700000000000

static char work_dir[64];
static uint64_t pairs; /* of names that had to be one inode */

void sim_trace(struct sim *s, const char *fmt, ...)
{
	if (!s->verbose)
		return;
	va_list ap;
	va_start(ap, fmt);
	printf("%9.3f ", (double)(s->now_ms - EPOCH_MS) / 1000);
	vprintf(fmt, ap);
	putchar('\n');
	fflush(stdout);
	va_end(ap);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void remove_work_dir(void)
{
	nftw(work_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fflush(stdout);
	fprintf(stderr, "seed %" PRIu64 ": ", s->seed);
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\nrepeat with: --seed %" PRIu64 " --verbose\n", s->seed);
	va_end(ap);
	if (!getenv("SIM_KEEP"))
		remove_work_dir();
	exit(1);
}

static int64_t sim_realtime_ns(void *ctx)
{
	struct sim *s = ctx;
	sim_unseen_tick(s);
	return (s->now_ms + s->node[s->current].skew_ms) * 1000000;
}

static int64_t sim_monotonic_ms(void *ctx)
{
	struct sim *s = ctx;
	sim_unseen_tick(s);
	return s->now_ms;
}

static void sim_sleep_ms(void *ctx, int64_t ms)
{
	((struct sim *)ctx)->now_ms += ms;
}

/* Most seeds have sealers that do with little room, so that what is changed in one go has to be cut, or makes their
 * sets grow. Where that is not allowed no order is kept, so none is checked then. Not drawn: the seed's events stay
 * what they are. */
static void set_sizes(const struct sim *s, struct replicator_options *o)
{
	unsigned x = (unsigned)(s->seed * UINT64_C(0x9e3779b97f4a7c15) >> 40);

	if (x % 4 == 0)
		return;
	o->seal_set_size = 3 + x / 4 % 40;
	if (s->foreign && x / 256 % 2)
		o->seal_set_max = o->seal_set_size + x / 512 % 40;
}

void sim_node_open(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];
	struct cache_options co = {
		.state_dir = node->dir, .sync_off = true, .no_lock = true, .map_min = SIM_INLINE_MAX,
		.partial_block = 32, .parts_min = SIM_PARTS_MIN};
	struct replicator_options ro = {.volume = "sim",
		.regions = s->regions,
		.home = node->home,
		.push_copy = s->push_copy,
		.inline_max = SIM_INLINE_MAX,
		.refresh = (enum refresh_mode)random_below(3)};
	struct err err = {0};
	static const char *const names[] = {"r0", "r1", "r2"};

	sim_checkpoint_options(s, &ro);
	set_sizes(s, &ro);
	s->current = n;
	node->skew_ms = node->own_skew_ms;
	if (cache_open(&co, &node->cache, &err) < 0)
		sim_fail(s, "n%u: cache_open: %s", n, err.text);
	for (unsigned r = 0; r < s->regions; r++) {
		ro.region[r].store.name = names[r];
		ro.region[r].store.url = "mem://";
		ro.region[r].opened = store_retry_new(sim_link_new(s, n, r), 3, 60000);
	}
	sim_optional_options(s, &ro);
	if (replicator_new(node->cache, &ro, &node->replicator, &err) < 0)
		sim_fail(s, "n%u: replicator_new: %s", n, err.text);
}

static void release_files(struct sim_node *node)
{
	for (unsigned i = 0; i < SIM_OPEN_MAX; i++) {
		if (node->open[i])
			file_release(node->open[i]);
		node->open[i] = NULL;
	}
}

/* kill -9 and restart. */
static void crash(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	sim_trace(s, "n%u crashes", n);
	s->current = n;
	replicator_free(node->replicator);
	node->replicator = NULL;
	cache_abandon(node->cache);
	for (unsigned i = 0; i < SIM_OPEN_MAX; i++)
		free(node->open[i]); /* the handle alone: what it stood for went with the process */
	memset(node->open, 0, sizeof node->open);
	sim_node_open(s, n);
}

/* ---- events ---- */

static void random_event(struct sim *s, unsigned n)
{
	unsigned r = (unsigned)random_below(s->regions);

	if (s->node[n].dead)
		return;
	sim_clock_event(s, n);
	switch (random_below(30)) {
	case 0:
		s->region[r].down = !s->region[r].down && sim_chance(40);
		sim_trace(s, "r%u %s", r, s->region[r].down ? "down" : "up");
		break;
	case 1:
		s->node[n].cut[r] = !s->node[n].cut[r] && sim_chance(40);
		sim_trace(s, "n%u %s r%u", n, s->node[n].cut[r] ? "cut off from" : "linked to", r);
		break;
	case 2:
		if (sim_chance(30))
			crash(s, n);
		break;
	case 3:
	case 4:
		s->now_ms += (int64_t)random_below(sim_chance(10) ? 60000 : 3000);
		break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9:
		s->current = n;
		sim_replaced_before(s, n);
		sim_unseen_before(s, n);
		sim_app_event(s, n);
		sim_unseen_after(s, n);
		sim_replaced_after(s, n);
		break;
	case 10:
		s->current = n;
		s->now_ms += 1 + (int64_t)random_below(20);
		sim_order_write(s, n);
		sim_marker_event(s, n);
		sim_marker_event(s, n);
		sim_renamed_event(s, n);
		break;
	case 11:
	case 12:
		sim_flow_event(s, n, r);
		break;
	case 13:
		s->current = n;
		sim_delta_read(s, n);
		break;
	case 14:
		s->current = n;
		s->now_ms += 1 + (int64_t)random_below(20);
		sim_replaced_before(s, n);
		if (!s->mortal)
			sim_delta_append(s, n);
		sim_replaced_after(s, n);
		break;
	case 15:
	case 16:
		sim_lazy_event(s, n);
		break;
	default:
		if (!s->foreign || !sim_chance(25))
			sim_random_step(s);
		else if (sim_chance(40))
			sim_foreign_event(s);
		else
			sim_foreign_scan(s, n, r);
	}
	s->now_ms += (int64_t)random_below(5);
	sim_net_deliver_late(s, false);
}

void sim_event_without(struct sim *s, unsigned n)
{
	unsigned other = (unsigned)random_below(s->nodes);

	if (other != n)
		random_event(s, other);
}

static void heal(struct sim *s)
{
	s->healed = true;
	sim_trace(s, "healed");
	for (unsigned r = 0; r < s->regions; r++)
		s->region[r].down = false;
	sim_flow_heal(s);
	for (unsigned n = 0; n < s->nodes; n++) {
		s->current = n;
		memset(s->node[n].cut, 0, sizeof s->node[n].cut);
		if (!s->node[n].dead)
			release_files(&s->node[n]);
	}
	sim_net_deliver_late(s, true);
	unsigned quiet = 0;
	for (unsigned round = 0; quiet < 16; round++) {
		bool did = false;
		if (round == 600)
			sim_fail(s, "does not come to rest");
		/* beyond every backoff and clock skew in the end */
		s->now_ms += round < 40 ? 5000 : 20000;
		for (unsigned n = 0; n < s->nodes; n++) {
			struct sim_node *node = &s->node[n];
			if (node->dead)
				continue;
			s->current = n;
			sim_replaced_settle(s, n);
			bool d = false;
			int r = replicator_step_seal(node->replicator, &d);
			did |= d;
			for (unsigned g = 0; g < s->regions && r == 0; g++) {
				r = replicator_step_announce(node->replicator, g, &d);
				did |= d;
				if (r == 0)
					r = replicator_step_objects(node->replicator, g, 100, &d);
				did |= d;
			}
			if (r == 0 && sim_chance(20))
				r = sim_evict_some(s, n, &d);
			replicator_step_watch(node->replicator);
			if (r == 0)
				r = replicator_step_pull(node->replicator, &d);
			if (r == 0) {
				sim_order_check(s, n);
				sim_marker_check(s, n);
				sim_renamed_check(s, n);
			}
			did |= d;
			did |= sim_durability_step(s, n);
			did |= sim_optional_step(s, n);
			if (r == 0 && round < 60 && sim_chance(20))
				r = sim_checkpoint_step(s, n, &d);
			if (r < 0)
				sim_fail(s, "n%u: step after healing: %d", n, r);
			for (unsigned g = 0; s->foreign && round % 8 == 7 && g < s->regions; g++)
				did |= sim_foreign_scan(s, n, g);
		}
		quiet = did ? 0 : quiet + 1;
		if (quiet == 16 && sim_checkpoint_last_words(s))
			quiet = 0;
	}
}

/* ---- one seed ---- */

static int count_upload(void *ctx, const char *key, const char *id, int64_t begun_ms)
{
	*(uint64_t *)ctx +=
		strncmp(key, ".meridian/", 10) != 0; /* those of a probe that was cut off */
	return 0;
}

/* Nothing is left but uploads whose beginning was repeated because its answer was lost. */
static void check_uploads(struct sim *s)
{
	struct store_error error = {0};
	uint64_t left = 0;

	for (unsigned r = 0; r < s->regions; r++)
		if (store_mem_uploads(s->region[r].mem) &&
			store_uploads(s->region[r].mem, "", count_upload, &left, NULL, &error) !=
				STORE_OK)
			sim_fail(s, "uploads of r%u cannot be listed", r);
	if (left > s->lost_begins)
		sim_fail(s, "%" PRIu64 " uploads are left, %" PRIu64 " answers were lost", left,
			s->lost_begins);
}

static uint64_t run_seed(uint64_t seed, bool verbose)
{
	struct sim sim = {.seed = seed, .verbose = verbose, .now_ms = EPOCH_MS};
	struct sim *s = &sim;
	struct clock_source source = {.realtime_ns = sim_realtime_ns,
		.monotonic_ms = sim_monotonic_ms,
		.sleep_ms = sim_sleep_ms,
		.ctx = s};

	random_seed_deterministic(seed);
	clock_set_source(&source);
	sim_unseen_begin(s);
	sim_marker_begin(s);
	sim_renamed_begin(s);
	s->nodes = 2 + (unsigned)random_below(SIM_NODES_MAX - 1);
	s->regions = 1 + (unsigned)random_below(SIM_REGIONS_MAX);
	s->optional = s->regions > 1 && sim_chance(30) && seed % 4; /* the others are scanned */
	s->capabilities =
		sim_chance(30) ? STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH | STORE_CAP_COPY
			   : STORE_MEM_ALL;
	s->large = sim_chance(30);
	s->link_percent = sim_chance(50) ? 0 : (unsigned)random_below(40);
	s->rename_dirs = sim_chance(60);
	s->foreign = seed % 4 == 0;
	s->fault_percent = sim_chance(30) ? 0 : (unsigned)random_below(20);
	s->interleave_percent = sim_chance(30) ? 0 : (unsigned)random_below(40);
	s->push_copy = sim_chance(40);
	s->dated = seed % 3 == 0;
	bool skewed = sim_chance(50);
	for (unsigned r = 0; r < s->regions; r++) {
		s->region[r].mem = store_mem_new(s->capabilities);
		s->region[r].removed = store_mem_new(STORE_MEM_ALL);
		sim_clock_answer(s, s->region[r].mem);
	}
	s->checkpoints = sim_chance(40);
	/* Where servers die everybody keeps what came with the segments, and all content does: nothing
	 * is completed whose bytes only the dead had, or that lay in the bucket unannounced. */
	s->mortal = s->checkpoints && sim_chance(40);
	s->large = s->large && !s->mortal;
	for (unsigned r = 0; r < s->regions && seed % 2; r++)
		store_mem_set_limits(s->region[r].mem, &small_limits);
	for (unsigned n = 0; n < s->nodes; n++) {
		struct sim_node *node = &s->node[n];
		snprintf(node->dir, sizeof node->dir, "%s/%" PRIu64 "-n%u", work_dir, seed, n);
		node->home = (unsigned)random_below(s->regions - s->optional);
		node->skew_ms = node->own_skew_ms =
			skewed ? (int64_t)random_below(240000) - 120000 : 0;
		sim_node_open(s, n);
	}
	unsigned events = 150 + (unsigned)random_below(350);
	for (unsigned i = 0; i < events; i++)
		if (s->checkpoints && sim_chance(2))
			sim_checkpoint_event(s);
		else
			random_event(s, (unsigned)random_below(s->nodes));
	if (s->unseen)
		sim_app_crowd(s);
	heal(s);
	sim_check(s);
	if (!s->deaths)
		check_uploads(s); /* else a week must go by */
	sim_durability_done(s);
	for (unsigned n = 0; n < s->nodes; n++) {
		s->current = n;
		release_files(&s->node[n]);
		replicator_free(s->node[n].replicator);
		cache_close(s->node[n].cache);
		nftw(s->node[n].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	}
	for (unsigned r = 0; r < s->regions; r++) {
		store_close(s->region[r].mem);
		store_close(s->region[r].removed);
	}
	sim_net_done(s);
	sim_order_done();
	sim_marker_done(s);
	sim_renamed_done(s);
	sim_replaced_done(s);
	sim_unseen_done(s);
	clock_set_source(NULL);
	pairs += s->shared;
	return s->requests;
}

/* Tells what so many seeds are certain to meet and did not. */
static bool all_met(uint64_t seeds, uint64_t requests)
{
	const struct {
		uint64_t from; /* so many seeds */
		bool met;
		const char *otherwise;
	} wanted[] = {
		{0, requests > 0, "no request was made: nothing was simulated"},
		{100, sim_order_checks() > 0, "no two files' order was compared"},
		{100, sim_marker_checks() > 0, "no wandering file was looked at"},
		{100, sim_renamed_happened(), "no file of a renamed directory was looked at"},
		{100, metric_get(METRIC_SETS_CUT) > 0, "no set of changes was cut"},
		{100, metric_get(METRIC_SETS_GROWN) > 0, "no set of changes grew"},
		{100, pairs > 0, "no two names had to be one inode"},
		{100, sim_unseen_checks() > 0, "nothing was written unseen"},
		{100, sim_covered_checks() > 0, "no object was removed"},
		{100, sim_net_uploads_broke(), "no upload in parts was broken and came to its end"},
		{100, sim_durability_kept() > 0, "no fsync waited for regions"},
		{100, sim_flow_happened(),
			"no region was left for another, or nothing copied in a bucket or between two"},
		{100, sim_lazy_happened(), "no file was read by ranges to its end"},
		{500, sim_lazy_refused(), "no wrong bytes came"},
		{100, sim_optional_happened(), "no optional region was given up and came back"},
		{100, sim_foreign_found() > 0, "no scan found anything"},
		{100, metric_get(METRIC_CONTENT_EVICTED) > 0, "nothing was evicted"},
		{100, metric_get(METRIC_CHECKPOINTS_WRITTEN) > 0, "no checkpoint was written"},
		{100, metric_get(METRIC_CHECKPOINTS_LOADED) > 0, "no checkpoint was loaded"},
		{100, metric_get(METRIC_SEGMENTS_REMOVED) > 0, "no segment was removed"},
		{100, metric_get(METRIC_BYTES_COPIED) > 0, "no part of a changed object was copied"},
		{100, metric_get(METRIC_DELTAS_APPLIED) > 0, "no delta was applied"},
	};
	bool all = true;

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (seeds < wanted[i].from || wanted[i].met)
			continue;
		fprintf(stderr, "sim: %s\n", wanted[i].otherwise);
		all = false;
	}
	return all;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, seeds = 1000, requests = 0;
	bool verbose = false;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
			seeds = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 10);
			seeds = 1;
		} else if (strcmp(argv[i], "--verbose") == 0) {
			verbose = true;
		} else {
			fprintf(stderr,
				"usage: sim [--seeds N] [--first S] [--seed S] [--verbose]\n");
			return 2;
		}
	}
	log_set_level(verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	snprintf(work_dir, sizeof work_dir, "%s/meridian-sim.XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(work_dir)) {
		perror("sim: mkdtemp");
		return 1;
	}
	for (uint64_t i = 0; i < seeds; i++)
		requests += run_seed(first + i, verbose);
	remove_work_dir();
	if (!all_met(seeds, requests))
		return 1;
	printf("%" PRIu64 " seeds from %" PRIu64 ", %" PRIu64 " requests, %" PRIu64
	       " pairs of names, %" PRIu64 " evictions, %" PRIu64 " checkpoints written, %" PRIu64
	       " loaded, %" PRIu64 " segments removed, %" PRIu64 " promises: all converge\n",
		seeds, first, requests, pairs, metric_get(METRIC_CONTENT_EVICTED),
		metric_get(METRIC_CHECKPOINTS_WRITTEN), metric_get(METRIC_CHECKPOINTS_LOADED),
		metric_get(METRIC_SEGMENTS_REMOVED), sim_durability_kept());
	return 0;
}
