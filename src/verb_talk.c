/* Why this file: the verbs that ask a running daemon: status, flush, evict, warmup, umount. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/buf.h"
#include "src/control.h"
#include "src/locate.h"
#include "src/mounts.h"
#include "src/option.h"
#include "src/registry.h"
#include "src/text.h"
#include "src/verbs.h"

#define ANSWER_MS 30000 /* a daemon that says nothing for so long does not answer */
#define ENDED_MS 60000	/* for a daemon that was unmounted to end */
#define FLUSH_DEFAULT_MS (30 * 86400000ll)
#define UMOUNT_DEFAULT_MS 60000

/* An option of type TIME. False (message printed) when it is none. */
static bool get_time(const struct verb_arguments *a, const char *name, int64_t preset, int64_t *ret)
{
	const char *text = verb_given(a, name);
	struct err err = {0};

	*ret = preset;
	if (!text || option_parse_time(text, ret))
		return true;
	(void)err_set(&err, -EINVAL,
		"--%s: not a time\nhint: write for example 500ms, 20s, 5m or 2h", name);
	verb_fail(EXIT_USAGE, &err);
	return false;
}

static int connect_to(const struct location *l, pid_t *pid, struct err *err)
{
	int fd = l->state_dir ? control_connect(l->state_dir, pid) : -ENOENT;

	if (fd >= 0)
		return fd;
	if (fd == -EACCES || fd == -EPERM)
		return err_set(err, fd,
			"%s: only root and the daemon's own user may ask its daemon",
			l->volume ? l->volume : l->mountpoint);
	return err_set(err, -ENOTCONN, "%s: no daemon answers%s",
		l->volume ? l->volume : l->mountpoint,
		l->mountpoint
			? "\nhint: `meridian umount` clears the mount point"
			: "\nhint: the volume is not mounted; meridian mount VOLUME MOUNTPOINT");
}

static void collect(void *ctx, bool progress, const char *text)
{
	struct buf *out = ctx;

	if (progress)
		return;
	buf_put_str(out, text);
	buf_put_u8(out, '\n');
}

/* Progress for people: on a terminal one line that is rewritten. */
static void show_progress(void *ctx, bool progress, const char *text)
{
	bool terminal = isatty(STDERR_FILENO);
	char clean[128];

	if (!progress)
		return;
	snprintf(clean, sizeof(clean), "%s", text);
	text_clean(clean);
	fprintf(stderr, terminal ? "\r\033[K%s" : "%s\n", clean);
	*(bool *)ctx = terminal;
}

static int request_flush(int fd, bool wait, int64_t timeout_ms, const char *key, struct err *err)
{
	char ms[32];
	const char *now[] = {"flush", key}, *waiting[] = {"flush-wait", ms, key};
	bool open_line = false;
	int r;

	snprintf(ms, sizeof(ms), "%lld", (long long)timeout_ms);
	r = control_request(
		fd, wait ? 3 : 2, wait ? waiting : now, ANSWER_MS, show_progress, &open_line, err);
	if (open_line)
		fprintf(stderr, "\r\033[K");
	return r;
}

/* status */

static int ask_status(const struct location *l, bool json, struct buf *out, struct err *err)
{
	const char *words[] = {"status", "json"};
	int fd AUTO_CLOSE = connect_to(l, NULL, err);

	if (fd < 0)
		return fd;
	return control_request(fd, json ? 2 : 1, words, ANSWER_MS, collect, out, err);
}

struct all {
	bool json;
	unsigned count;
	int result;
	struct buf out;
};

static int status_of_entry(void *ctx, const struct registry_entry *e)
{
	struct all *all = ctx;
	struct location l CLEANUP(location_done) = {0};
	struct buf one CLEANUP(buf_done) = {0};
	struct err err = {0};

	if (locate(e->mountpoint, &l, &err) < 0)
		return 0; /* left by a killed daemon, and no longer mounted */
	if (ask_status(&l, all->json, &one, &err) < 0) {
		all->result = verb_fail(EXIT_RETRY, &err);
		return 0;
	}
	if (all->count++ > 0)
		buf_put_str(&all->out, all->json ? ",\n" : "\n");
	/* The document without its last newline. */
	buf_put(&all->out, one.data, all->json && one.len ? one.len - 1 : one.len);
	return 0;
}

static int status_of_all(bool json)
{
	struct all all = {.json = json};
	int r;

	(void)registry_scan(status_of_entry, &all);
	r = all.result;
	if (json)
		printf("[%s%s%s]\n", all.count ? "\n" : "", buf_str(&all.out),
			all.count ? "\n" : "");
	else if (all.count == 0 && r == 0)
		printf("no volume is mounted\n");
	else
		fputs(buf_str(&all.out), stdout);
	buf_done(&all.out);
	return fflush(stdout) == 0 ? r : EXIT_RETRY;
}

int verb_status(const struct verb_arguments *a)
{
	bool json = verb_given(a, "json") != NULL;
	struct location l CLEANUP(location_done) = {0};
	struct buf out CLEANUP(buf_done) = {0};
	struct err err = {0};
	int r;

	if (a->operands == 0)
		return status_of_all(json);
	r = locate(a->operand[0], &l, &err);
	if (r == 0)
		r = ask_status(&l, json, &out, &err);
	if (r < 0)
		return verb_fail(r == -EINVAL ? EXIT_USAGE : EXIT_RETRY, &err);
	fputs(buf_str(&out), stdout);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_RETRY;
}

/* flush */

int verb_flush(const struct verb_arguments *a)
{
	struct location l CLEANUP(location_done) = {0};
	struct err err = {0};
	int64_t timeout_ms;
	int fd AUTO_CLOSE = -1;
	int r;

	if (!get_time(a, "timeout", FLUSH_DEFAULT_MS, &timeout_ms))
		return EXIT_USAGE;
	r = locate(a->operands ? a->operand[0] : NULL, &l, &err);
	if (r < 0)
		return verb_fail(r == -EINVAL ? EXIT_USAGE : EXIT_RETRY, &err);
	fd = connect_to(&l, NULL, &err);
	if (fd < 0)
		return verb_fail(EXIT_RETRY, &err);
	r = request_flush(fd, verb_given(a, "wait") != NULL, timeout_ms, l.key ? l.key : "", &err);
	if (r < 0) {
		(void)err_prefix(&err, r, "flush");
		return verb_fail(r == -EINVAL ? EXIT_USAGE : EXIT_RETRY, &err);
	}
	return EXIT_OK;
}

/* evict, warmup */

/* ctx: whether a line of show_progress is open. */
static void show_lines(void *ctx, bool progress, const char *text)
{
	bool *open_line = ctx;

	if (progress) {
		show_progress(open_line, progress, text);
		return;
	}
	if (*open_line)
		fprintf(stderr, "\r\033[K");
	*open_line = false;
	printf("%s\n", text);
}

/* Asks for one PATH. */
static int request_content(const char *verb, const char *path, struct err *err)
{
	struct location l CLEANUP(location_done) = {0};
	const char *words[2] = {verb};
	bool open_line = false;
	int fd AUTO_CLOSE = -1;
	int r;

	r = locate_path(path, &l, err);
	if (r < 0)
		return r;
	fd = connect_to(&l, NULL, err);
	if (fd < 0)
		return fd;
	words[1] = l.key ? l.key : "";
	r = control_request(fd, 2, words, ANSWER_MS, show_lines, &open_line, err);
	if (open_line)
		fprintf(stderr, "\r\033[K");
	return r;
}

static int each_path(const struct verb_arguments *a, const char *verb)
{
	int code = EXIT_OK;

	for (unsigned i = 0; i < a->operands; i++) {
		struct err err = {0};
		int r = request_content(verb, a->operand[i], &err);

		if (r == 0)
			continue;
		(void)err_prefix(&err, r, "%s", verb);
		verb_fail(EXIT_RETRY, &err);
		if (code == EXIT_OK || r == -EINVAL)
			code = r == -EINVAL ? EXIT_USAGE : EXIT_RETRY;
	}
	return fflush(stdout) == 0 ? code : EXIT_RETRY;
}

int verb_evict(const struct verb_arguments *a)
{
	return each_path(a, "evict");
}

int verb_warmup(const struct verb_arguments *a)
{
	return each_path(a, "warmup");
}

/* reconcile */

int verb_reconcile(const struct verb_arguments *a)
{
	struct location l CLEANUP(location_done) = {0};
	const char *words[4] = {"reconcile", "run", verb_given(a, "region")};
	bool dry = verb_given(a, "dry-run"), accept = verb_given(a, "accept-deletes"),
	     restore = verb_given(a, "restore"), open_line = false;
	struct err err = {0};
	int fd AUTO_CLOSE = -1;
	int r;

	if (dry + accept + restore > 1) {
		(void)err_set(&err, -EINVAL,
			"reconcile: only one of --dry-run, --accept-deletes and --restore");
		return verb_fail(EXIT_USAGE, &err);
	}
	words[1] = dry ? "dry" : accept ? "accept" : restore ? "restore" : "run";
	words[2] = words[2] ? words[2] : "";
	r = locate(a->operands ? a->operand[0] : NULL, &l, &err);
	if (r < 0)
		return verb_fail(r == -EINVAL ? EXIT_USAGE : EXIT_RETRY, &err);
	fd = connect_to(&l, NULL, &err);
	if (fd < 0)
		return verb_fail(EXIT_RETRY, &err);
	words[3] = l.key ? l.key : "";
	r = control_request(fd, 4, words, ANSWER_MS, show_lines, &open_line, &err);
	if (open_line)
		fprintf(stderr, "\r\033[K");
	if (fflush(stdout) != 0 && r == 0)
		return EXIT_RETRY;
	if (r == 0)
		return EXIT_OK;
	(void)err_prefix(&err, r, "reconcile");
	return verb_fail(r == -EINVAL ? EXIT_USAGE : r == -EBUSY ? EXIT_OPERATOR : EXIT_RETRY, &err);
}

/* umount */

/* Waits until the daemon has drained and released its state, so that the next mount finds it free.
 */
static void wait_for_end(int pidfd, pid_t pid)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	if (pidfd < 0)
		return;
	if (poll(&p, 1, ENDED_MS) == 0)
		fprintf(stderr, "meridian: the daemon (%d) still sends what came last\n", (int)pid);
}

/* Only what is certainly dead goes although it is in use: the registry may be wrong. */
static int umount_dead(const struct location *l, const struct err *why)
{
	struct err err = {0};
	int r;

	if (!l->mountpoint)
		return verb_fail(EXIT_RETRY, why);
	r = mounts_unmount(l->mountpoint, mounts_dead(l->mountpoint), &err);
	if (r < 0)
		return verb_fail(verb_exit_code(r), &err);
	fprintf(stderr,
		"meridian: %s: its daemon had ended; what is left is in the journal and sent after "
		"the next mount\n",
		l->mountpoint);
	return EXIT_OK;
}

/* Programs may hold the mount open for ever, and the daemon serves them even when it is detached.
 */
static int umount_forced(const struct location *l, int fd, struct err *err)
{
	const char *words[] = {"stop"};
	int r = mounts_unmount(l->mountpoint, true, err);

	if (r < 0)
		return r;
	r = control_request(fd, 1, words, ANSWER_MS, NULL, NULL, err);
	return r == -ECONNRESET ? 0 : r; /* it had ended by then */
}

static int umount_live(const struct location *l, int fd, int64_t timeout_ms, bool force)
{
	struct err err = {0}, unmount = {0};
	int r = request_flush(fd, true, timeout_ms, "", &err);

	if (r == -ECONNRESET) /* it was killed as we asked */
		return umount_dead(l, &err);
	if (r < 0) {
		err.text[strcspn(err.text, "\n")] = '\0';
		(void)err_prefix(&err, r, "%s%s", l->volume, force ? "" : ": still mounted");
	}
	if (r < 0 && !force) {
		fprintf(stderr,
			"meridian: %s\nhint: a longer --timeout, or --force: the rest is sent "
			"after the next mount\n",
			err.text);
		return EXIT_RETRY;
	}
	if (r < 0)
		verb_fail(EXIT_RETRY, &err);
	r = force ? umount_forced(l, fd, &unmount) : mounts_unmount(l->mountpoint, false, &unmount);
	return r < 0 ? verb_fail(EXIT_RETRY, &unmount) : EXIT_OK;
}

int verb_umount(const struct verb_arguments *a)
{
	struct location l CLEANUP(location_done) = {0};
	struct err err = {0};
	int fd AUTO_CLOSE = -1;
	int pidfd AUTO_CLOSE = -1;
	int64_t timeout_ms;
	pid_t pid = 0;
	int r;

	if (!get_time(a, "timeout", UMOUNT_DEFAULT_MS, &timeout_ms))
		return EXIT_USAGE;
	r = locate(a->operand[0], &l, &err);
	if (r < 0)
		return verb_fail(r == -EINVAL ? EXIT_USAGE : EXIT_RETRY, &err);
	if (l.key && l.key[0]) {
		(void)err_set(&err, -EINVAL, "%s: inside the mount point %s, not one itself",
			a->operand[0], l.mountpoint);
		return verb_fail(EXIT_USAGE, &err);
	}
	fd = connect_to(&l, &pid, &err);
	if (fd < 0)
		return fd == -ENOTCONN ? umount_dead(&l, &err) : verb_fail(EXIT_OPERATOR, &err);
	if (!l.mountpoint) {
		(void)err_set(&err, -ENOENT, "%s: not mounted here\nhint: name the mount point",
			a->operand[0]);
		return verb_fail(EXIT_RETRY, &err);
	}
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	r = umount_live(&l, fd, timeout_ms, verb_given(a, "force") != NULL);
	/* An open connection does not hold the daemon, but its thread need not wait for it. */
	close(fd);
	fd = -1;
	if (r == EXIT_OK)
		wait_for_end(pidfd, pid);
	return r;
}
