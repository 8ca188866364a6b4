/*
 * Which region is read first: how each answers, and when another one is the better choice.
 *
 * Kept for each region: its latency (of listings of the newest segments, which cost all stores about
 * the same) and the share of reads that failed, both as exponentially weighted moving averages. A region
 * is left when it fails half of what it is asked, or answers in over half a second and four times as
 * slowly as another one; and it is taken back after a stretch of good probes only, so that one which
 * comes and goes is not followed each time. To be left means to be asked last, nothing else: where
 * nobody else has an answer it still is.
 *
 * An idle server whose first region is well makes no request for this.
 */
#ifndef REPLICATOR_HEALTH_H
#define REPLICATOR_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct health {
	double latency_ms; /* of listings; meaningful from the first sample on */
	double failing;	   /* share of reads, 0 to 1 */
	unsigned samples;  /* of latency */
	unsigned good;	   /* probes in a row, while left */
	bool left;
	int64_t left_ms;  /* monotonic: when it was left */
	int64_t probe_ms; /* likewise: when it was probed last */
};

/* A read that was answered or failed. */
void health_note(struct health *h, bool failed);
/* A listing that was answered after so long. */
void health_latency(struct health *h, int64_t ms);
/* A good or bad probe of one that was left; best: the healthiest other region, or NULL. */
void health_probed(struct health *h, bool failed, int64_t ms, const struct health *best);
/* Worth comparing with others. */
bool health_suspicious(const struct health *h);
/* best: the healthiest other region that is up, or NULL: then none is left. */
bool health_should_leave(const struct health *h, const struct health *best);
bool health_may_return(const struct health *h, int64_t now_ms);

/* ---- of all regions (health_regions.c) ---- */

struct region;
struct regions;

/* Indexes in the order in which they are to be read: the home region, the others in their order, and
 * last those that were left. */
void regions_order(struct regions *all, unsigned order[]);
/* A listing of the newest segments took so long. */
void region_listed(struct region *r, int64_t ms);
/* Leaves and takes back; probes what that needs to know, at most one request a region, 5 s each. To be
 * called about once a second; one thread at a time. */
void regions_watch(struct regions *all);

#endif
