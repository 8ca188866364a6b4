/*
 * The table of placed.h: direct-mapped by a hash of the key. What it says was true when it was noted:
 * content that was written over since, or removed, had its own way into the trash.
 *
 * Lock: placed.lock, for a few instructions.
 */
#include "replicator/placed.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 131072 };

struct placed_slot {
	uint8_t key[16]; /* the first bytes of SHA-256 of key and content */
	uint8_t hash[16];
};

void placed_init(struct placed *p)
{
	mutex_init(&p->lock, LOCK_RANK_LEAF);
}

void placed_done(struct placed *p)
{
	mutex_done(&p->lock);
	free(p->slot);
}

static struct placed_slot *find(struct placed *p, const uint8_t key[SHA256_SIZE])
{
	uint32_t at = (uint32_t)key[16] | (uint32_t)key[17] << 8 | (uint32_t)key[18] << 16;

	return &p->slot[at % SLOTS];
}

void placed_note(struct placed *p, struct slice key, const uint8_t hash[SHA256_SIZE])
{
	uint8_t k[SHA256_SIZE];

	sha256(key.p, key.len, k);
	mutex_lock(&p->lock);
	if (!p->slot)
		p->slot = calloc(SLOTS, sizeof(*p->slot));
	if (p->slot) { /* else the store is asked */
		struct placed_slot *s = find(p, k);

		memcpy(s->key, k, sizeof(s->key));
		memcpy(s->hash, hash, sizeof(s->hash));
	}
	mutex_unlock(&p->lock);
}

bool placed_has(struct placed *p, struct slice key, const uint8_t hash[SHA256_SIZE])
{
	uint8_t k[SHA256_SIZE];
	bool has = false;

	sha256(key.p, key.len, k);
	mutex_lock(&p->lock);
	if (p->slot) {
		struct placed_slot *s = find(p, k);

		has = memcmp(s->key, k, sizeof(s->key)) == 0 &&
		      memcmp(s->hash, hash, sizeof(s->hash)) == 0;
	}
	mutex_unlock(&p->lock);
	return has;
}
