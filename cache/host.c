/*
 * Which machine, which boot, which file: what a state directory remembers of where it was used.
 *
 *   boot      the kernel's boot id at the last open. Another one after an unclean stop means that
 *             the machine stopped, so what was not flushed may be lost (recover.c)
 *   identity  a number from the machine's id and from the database's inode and time of birth, which
 *             every copy of the directory gets anew. Another one means a copy, or a restore from a
 *             backup: the original may go on elsewhere or have gone further, and two servers of
 *             one node id number their segments alike, which loses changes. Such a state becomes a
 *             new server: a new node id; what the old one sent is known as another server's, and
 *             what it sent after the copy was made arrives like any other server's. A directory
 *             that was moved to another disk pays for nothing with that but a new id.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/vfs.h>

#include "cache/internal.h"
#include "cache/meta.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/random.h"

#define BOOT_ID_SIZE 64

/* A line of a file; empty when there is none. */
static void read_line(const char *path, char *line, size_t size)
{
	int fd AUTO_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, size - 1);

	line[n > 0 ? n : 0] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

int host_power_lost(struct conn *conn, const char *boot_id, bool *ret)
{
	char now[BOOT_ID_SIZE], then[BOOT_ID_SIZE] = "";
	int r;

	if (boot_id)
		snprintf(now, sizeof(now), "%s", boot_id);
	else
		read_line("/proc/sys/kernel/random/boot_id", now, sizeof(now));
	r = meta_get_text(conn, "boot", then, sizeof(then));
	if (r && r != -ENOENT)
		return r;
	*ret = now[0] && then[0] && strcmp(now, then) != 0;
	return strcmp(now, then) == 0 ? 0 : meta_set_text(conn, "boot", now);
}

static int identity(struct cache *c, const char *host, int64_t *ret)
{
	uint8_t hash[SHA256_SIZE];
	char machine[64], text[192];
	struct statx x;
	uint64_t number = 0;
	int n;

	if (statx(c->dir_fd, "meridian.db", AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &x) != 0)
		return -errno;
	if (host)
		snprintf(machine, sizeof(machine), "%s", host);
	else
		read_line("/etc/machine-id", machine, sizeof(machine));
	if (!(x.stx_mask & STATX_BTIME))
		x.stx_btime = (struct statx_timestamp){0};
	n = snprintf(text, sizeof(text), "%s %llu %lld.%u", machine, (unsigned long long)x.stx_ino,
		(long long)x.stx_btime.tv_sec, x.stx_btime.tv_nsec);
	sha256(text, (size_t)n, hash);
	for (unsigned i = 0; i < 8; i++)
		number = number << 8 | hash[i];
	*ret = (int64_t)(number >> 1);
	return 0;
}

static int run(struct conn *conn, sqlite3_stmt *s, uint64_t node)
{
	if (node)
		bind_int(s, 1, (int64_t)node);
	return conn_run(conn, s);
}

/* The old id's segments up to the last one sent are what this state is made of. Its numbers start
 * again with the new id; what was on its way is sent once more. */
static int become_new(struct conn *conn, uint64_t old, uint64_t *node)
{
	uint64_t fresh = random_u64() | 1;
	int r;

	r = run(conn,
		conn_statement(conn, "INSERT OR REPLACE INTO segment_seen(region, node, seq, name)"
				     " SELECT id, ?1, sent_seq, sent_name FROM region"
				     " WHERE sent_seq > 0"),
		old);
	if (!r)
		r = run(conn,
			conn_statement(conn, "UPDATE region SET sent_seq = 0, sent_name = '',"
					     " pending_name = ''"),
			0);
	if (!r)
		r = run(conn,
			conn_statement(conn, "UPDATE retired_region SET sent_seq = 0,"
					     " sent_name = '', pending_name = ''"),
			0);
	if (!r)
		r = meta_set_int(conn, "node", (int64_t)fresh);
	if (r)
		return r;
	log_warn("the state directory is a copy, or on another machine: it becomes a new server "
		 "state_dir=%s old_node=%016llx node=%016llx",
		conn->cache->state_dir, (unsigned long long)old, (unsigned long long)fresh);
	*node = fresh;
	return 0;
}

int host_check_identity(struct conn *conn, const char *host, uint64_t *node)
{
	int64_t now, then;
	int r = identity(conn->cache, host, &now);

	if (r)
		return r;
	r = meta_get_int(conn, "identity", &then);
	if (r && r != -ENOENT)
		return r;
	if (!r && now == then)
		return 0;
	if (!r)
		r = become_new(conn, *node, node);
	else
		r = 0;
	return r ? r : meta_set_int(conn, "identity", now);
}

bool cache_dir_volatile(const char *path)
{
	struct statfs v;

	if (statfs(path, &v) != 0) {
		/* Not made yet: what its parent lies on. */
		const char *slash = strrchr(path, '/');
		char *parent AUTO_FREE =
			slash && slash > path ? strndup(path, (size_t)(slash - path)) : strdup("/");

		if (!parent || errno != ENOENT || statfs(parent, &v) != 0)
			return false;
	}
	return v.f_type == TMPFS_MAGIC || v.f_type == RAMFS_MAGIC;
}
