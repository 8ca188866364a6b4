/*
 * Owners as this mount shows them. The cache and the buckets have the volume's ids; where a server
 * numbers its users otherwise, they are translated here, on the way to the kernel and back, and
 * nowhere else. So a map can be changed at any mount, and nothing is ever rewritten because of it.
 *
 * Each map is a permutation (config_ids.c sees to it): no two owners are shown as one.
 *
 * A forced owner or a umask shows less than there is; what cannot be shown is kept as it is: chown
 * is refused, chmod leaves hidden bits alone, and ACLs are not offered. They would be of no use: who
 * is somebody else cannot be told.
 */
#include "fs/internal.h"

#include "cache/acl.h"

uint32_t ids_show(const struct fs_id_map *map, uint32_t kept)
{
	for (unsigned i = 0; i < map->count; i++)
		if (map->pair[i].kept == kept)
			return map->pair[i].shown;
	return kept;
}

uint32_t ids_keep(const struct fs_id_map *map, uint32_t shown)
{
	for (unsigned i = 0; i < map->count; i++)
		if (map->pair[i].shown == shown)
			return map->pair[i].kept;
	return shown;
}

void ids_show_stat(const struct fs *fs, struct stat *st)
{
	const struct fs_ids *ids = &fs->ids;

	st->st_uid = ids->force_uid ? ids->uid : ids_show(&ids->uids, st->st_uid);
	st->st_gid = ids->force_gid ? ids->gid : ids_show(&ids->gids, st->st_gid);
	if (!S_ISLNK(st->st_mode))
		st->st_mode &= ~ids->umask;
}

bool ids_hide(const struct fs *fs)
{
	return fs->ids.force_uid || fs->ids.force_gid || fs->ids.umask;
}

/* The caller's own ids, also where another owner is shown: what leaves names who did it. */
void ids_creator(fuse_req_t req, uint32_t *uid, uint32_t *gid)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	const struct fs *fs = fs_of(req);

	*uid = ids_keep(&fs->ids.uids, ctx->uid);
	*gid = ids_keep(&fs->ids.gids, ctx->gid);
}

int ids_keep_attr(struct fs *fs, uint64_t ino, unsigned *mask, struct inode *v)
{
	const struct fs_ids *ids = &fs->ids;
	struct inode now;
	int r;

	if ((*mask & SET_UID && ids->force_uid && v->uid != ids->uid) ||
		(*mask & SET_GID && ids->force_gid && v->gid != ids->gid))
		return -EPERM;
	if (ids->force_uid)
		*mask &= ~(unsigned)SET_UID;
	if (ids->force_gid)
		*mask &= ~(unsigned)SET_GID;
	v->uid = ids_keep(&ids->uids, v->uid);
	v->gid = ids_keep(&ids->gids, v->gid);
	if (!(*mask & SET_MODE) || !ids->umask)
		return 0;
	r = tree_getattr(fs->cache, ino, &now);
	if (!r)
		v->mode = (v->mode & ~ids->umask) | (now.mode & ids->umask);
	return r;
}

size_t ids_map_acl(const struct fs *fs, void *value, size_t size, bool show)
{
	uint32_t (*translate)(const struct fs_id_map *, uint32_t) = show ? ids_show : ids_keep;
	struct acl acl;

	if ((fs->ids.uids.count == 0 && fs->ids.gids.count == 0) ||
		acl_parse((struct slice){value, size}, &acl))
		return size;
	for (unsigned i = 0; i < acl.count; i++) {
		struct acl_entry *e = &acl.entry[i];

		if (e->tag == ACL_TAG_USER)
			e->id = translate(&fs->ids.uids, e->id);
		else if (e->tag == ACL_TAG_GROUP)
			e->id = translate(&fs->ids.gids, e->id);
	}
	return acl_serialise(&acl, value);
}

bool ids_in_group(fuse_req_t req, uint32_t gid)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	gid_t few[64], *list = few;
	int n;
	bool found;

	gid = ids_show(&fs_of(req)->ids.gids, gid);
	if (ctx->uid == 0 || ctx->gid == gid)
		return true;
	n = fuse_req_getgroups(req, ARRAY_SIZE(few), few);
	if (n > (int)ARRAY_SIZE(few)) {
		list = calloc((size_t)n, sizeof(*list));
		if (list && fuse_req_getgroups(req, n, list) != n)
			n = 0; /* they changed just now: the strict answer */
	}
	found = false;
	for (int i = 0; list && i < n && !found; i++)
		found = list[i] == gid;
	if (list != few)
		free(list);
	return found;
}
