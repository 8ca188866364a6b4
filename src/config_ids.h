/* The keys map_uid, map_gid, uid, gid and umask of [volume]: ids that a mount shows in place of the
 * volume's. */
#ifndef SRC_CONFIG_IDS_H
#define SRC_CONFIG_IDS_H

#include "fs/fs.h"
#include "src/base/attribute.h"
#include "src/base/err.h"

/* "alice:1001, 1002:2002": pairs of a user (groups: a group) of this server, by name or number, and
 * the volume's number. The pairs are completed to a permutation: an id that stands on one side of a
 * chain of pairs only is paired with the id at the chain's other end. -EINVAL for what is malformed,
 * unknown or there twice. ret is written on success only. */
int config_ids_map(
	const char *text, bool groups, struct fs_id_map *ret, struct err *err) MUST_CHECK;
/* A user or group of this server, by name or number. */
int config_ids_id(const char *text, bool group, uint32_t *ret, struct err *err) MUST_CHECK;
/* Octal permission bits: "022". */
int config_ids_umask(const char *text, uint32_t *ret, struct err *err) MUST_CHECK;

#endif
