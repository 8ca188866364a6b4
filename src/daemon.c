/*
 * Why this file: the order in which the daemon's parts come up and go down.
 *
 *   up    fork, limits, cache, replicator, preflight, mount, replicator threads, control socket,
 *         "ready", serve
 *   down  drain, unmount, drain what came meanwhile, control socket, replicator threads, fs,
 *         replicator, cache
 *
 * The process forks before any thread or library state exists; the parent only waits for one
 * message on a pipe. Nothing depends on an orderly way down: every acknowledged change is in the
 * journal, and a kill at any point costs the next start a recovery, not data.
 *
 * Threads. All signals are blocked in every thread; signal_main takes SIGTERM and SIGINT with
 * sigwait and starts the drain. A second one ends the drain at once.
 */
#include "src/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>

#include "cache/cache.h"
#include "cache/file.h"
#include "fs/fs.h"
#include "replicator/replicator.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/thread.h"
#include "src/command.h"
#include "src/control.h"
#include "src/mounts.h"
#include "src/registry.h"

#define PREFLIGHT_MS 5000
#define LAST_DRAIN_MS 2000 /* after the unmount, for what came in while draining */

struct daemon {
	const struct daemon_options *options;
	const struct config *config;
	struct cache *cache;
	struct replicator *replicator;
	struct fs *fs;
	struct control *control;
	struct command_context command;
	pthread_t signal_thread;
	pthread_t drain_thread;
	bool signal_started;
	bool drain_started;	     /* signal thread, then the main thread after joining it */
	_Atomic bool hurry;	     /* a second signal: do not wait */
	_Atomic bool ended;	     /* the main thread wants the signal thread back */
	_Atomic int64_t deadline_ms; /* of the drain that a signal began; 0: none did */
};

/* What the pipe to the waiting parent carries. */
struct ready_message {
	int result;
	struct err err;
};

/* Closes fd. */
static void tell_parent(int fd, int result, const struct err *err)
{
	struct ready_message m = {.result = result};

	if (fd < 0)
		return;
	if (err)
		m.err = *err;
	/* Less than PIPE_BUF: written whole. The parent may be gone; then nobody needs to know. */
	_Static_assert(sizeof(m) <= 4096, "one atomic write");
	(void)!write(fd, &m, sizeof(m));
	close(fd);
}

/* Draining. */

struct drain {
	struct daemon *daemon;
	int64_t logged_ms;
};

static int drain_progress(void *ctx, uint64_t rows_left)
{
	struct drain *d = ctx;
	int64_t now = clock_monotonic_ms();

	if (now - d->logged_ms >= 5000) {
		d->logged_ms = now;
		log_info("draining volume=%s left=%llu", d->daemon->config->name,
			(unsigned long long)rows_left);
	}
	(void)sd_notifyf(0, "STATUS=Draining, %llu changes left", (unsigned long long)rows_left);
	return d->daemon->hurry ? 1 : 0;
}

static void drain(struct daemon *d, int64_t timeout_ms)
{
	struct drain state = {.daemon = d, .logged_ms = clock_monotonic_ms()};
	struct err err = {0};
	int r;

	if (d->hurry || timeout_ms <= 0)
		return;
	/* Sealing does not look at the time. */
	content_stop_hashing(d->cache, clock_monotonic_ms() + timeout_ms);
	r = replicator_flush(
		d->replicator, slice_of(""), true, timeout_ms, drain_progress, &state, &err);
	if (r < 0 && r != -ETIMEDOUT && r != -ECANCELED)
		log_error("draining failed volume=%s error=\"%s\"", d->config->name,
			err.text[0] ? err.text : strerror(-r));
}

static void *drain_main(void *arg)
{
	struct daemon *d = arg;

	drain(d, d->deadline_ms - clock_monotonic_ms());
	fs_stop(d->fs);
	return NULL;
}

static void begin_stop(struct daemon *d, const char *why)
{
	log_info("stopping volume=%s reason=%s", d->config->name, why);
	d->command.stopping = true;
	d->deadline_ms = clock_monotonic_ms() + d->config->drain_timeout_ms;
	(void)sd_notify(0, "STOPPING=1\nSTATUS=Draining");
	/* Without a thread to drain in: what is left stays in the journal. */
	d->drain_started = thread_start(&d->drain_thread, "drain", drain_main, d) == 0;
	if (!d->drain_started)
		fs_stop(d->fs);
}

static void *signal_main(void *arg)
{
	struct daemon *d = arg;
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	while (sigwait(&set, &number) == 0 && !d->ended) {
		if (d->command.stopping)
			d->hurry = true;
		else
			begin_stop(d, number == SIGINT ? "SIGINT" : "SIGTERM");
	}
	return NULL;
}

/* `stop` on the control socket: a SIGTERM, but without a drain: who asks has waited already. */
static void request_stop(void *ctx)
{
	struct daemon *d = ctx;

	d->hurry = true;
	if (!d->command.stopping)
		pthread_kill(d->signal_thread, SIGTERM);
}

/* Coming up. */

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
}

static void raise_limits(void)
{
	struct rlimit limit;

	umask(022);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* The default's parent belongs to the package; a state_dir of the user's choice must have one. */
static void make_state_parent(const struct config *c)
{
	size_t n = strlen(CONFIG_STATE_DIRECTORY);

	if (strncmp(c->state_dir, CONFIG_STATE_DIRECTORY "/", n + 1) == 0 &&
		mkdir(CONFIG_STATE_DIRECTORY, 0755) < 0 && errno != EEXIST)
		log_debug("cannot make " CONFIG_STATE_DIRECTORY ": %s", strerror(errno));
}

/* A dead mount (its daemon was killed) is cleared; a live one is refused. */
static int prepare_mountpoint(const char *mountpoint, struct err *err)
{
	struct mount_entry *mount AUTO_FREE = malloc(sizeof(*mount));
	struct stat st;

	if (!mount)
		return err_errno(err, -ENOMEM, "%s", mountpoint);
	/* Several daemons may have died on top of each other. */
	for (int tries = 0; tries < 16 && mounts_dead(mountpoint); tries++) {
		int r = mounts_unmount(mountpoint, true, err);

		if (r < 0)
			return err_prefix(err, r, "a dead mount is in the way");
		log_warn("removed a dead mount mountpoint=%s", mountpoint);
	}
	if (stat(mountpoint, &st) < 0)
		return err_set(err, -errno, "mount point %s: %s%s", mountpoint, strerror(errno),
			errno == ENOENT ? "\nhint: make the directory first" : "");
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "mount point %s: not a directory", mountpoint);
	if (mounts_covering(mountpoint, mount) == 0 && strcmp(mount->mountpoint, mountpoint) == 0 &&
		strcmp(mount->type, MOUNTS_TYPE) == 0)
		return err_set(err, -EBUSY,
			"mount point %s: a volume is mounted there already\nhint: `meridian status "
			"%s` shows it",
			mountpoint, mountpoint);
	return 0;
}

/* The daemon cannot wait for itself: what it reads and writes must not lie behind its own mount. */
static int refuse_below(const char *mountpoint, const char *path, const char *what, struct err *err)
{
	char *real AUTO_FREE = NULL;
	size_t n = strlen(mountpoint);

	/* What cannot be looked up is reported by who opens it. */
	if (mounts_canonical(path, &real) < 0 || strncmp(real, mountpoint, n) != 0 ||
		(real[n] != '/' && real[n] != '\0'))
		return 0;
	return err_set(err, -EINVAL,
		"mount point %s: %s %s lies in it and would be hidden\nhint: mount elsewhere, or "
		"move "
		"it",
		mountpoint, what, path);
}

static int check_places(struct daemon *d, struct err *err)
{
	static const char scheme[] = "file://";
	const struct config *c = d->config;
	int r = refuse_below(d->options->mountpoint, c->state_dir, "the state directory", err);

	for (unsigned i = 0; r == 0 && i < c->regions; i++) {
		struct store_config region = {0};

		config_store(c, i, &region);
		if (strncmp(region.url, scheme, strlen(scheme)) == 0)
			r = refuse_below(d->options->mountpoint, region.url + strlen(scheme),
				"the region's directory", err);
	}
	return r;
}

static int open_replicator(struct daemon *d, struct err *err)
{
	const struct config *c = d->config;
	struct replicator_options *o AUTO_FREE = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return err_errno(err, -ENOMEM, "%s", c->name);
	o->volume = c->name;
	o->regions = c->regions;
	for (unsigned i = 0; i < c->regions; i++) {
		config_store(c, i, &o->region[i].store);
		o->region[i].optional = c->region[i].optional;
		o->region[i].resync_backlog = c->region[i].resync_backlog;
		o->region[i].resync_age_ms = c->region[i].resync_age_ms;
	}
	o->force_regions = d->options->drop_regions;
	o->home = c->home_index;
	o->push_copy = c->push == 1;
	o->inline_max = c->inline_max;
	o->lazy_min = c->lazy_min;
	o->refresh = (enum refresh_mode)c->refresh;
	o->seal_after_ms = c->seal_after_ms;
	o->segment_delay_ms = c->segment_delay_ms;
	o->poll_interval_ms = c->poll_interval_ms;
	o->max_clock_skew_ms = c->max_clock_skew_ms;
	o->reconcile_interval_ms = c->reconcile_interval_ms;
	o->reconcile_grace_ms = c->reconcile_grace_ms;
	o->max_delete = c->max_delete.bytes ? c->max_delete.bytes : MAX_DELETE_NONE;
	o->max_delete_percent = c->max_delete.percent;
	o->object_threads = (unsigned)c->object_threads;
	o->checkpoint_interval_ms = c->checkpoint_interval_ms;
	o->gone_after_ms = c->gone_after_ms;
	o->trash_keep_ms = (int64_t)c->trash_days * 24 * 3600 * 1000;
	o->segment_keep_ms = (int64_t)c->segment_days * 24 * 3600 * 1000;
	o->durability_timeout_ms = c->durability_timeout_ms;
	r = replicator_new(d->cache, o, &d->replicator, err);
	return r < 0 ? r : replicator_preflight(d->replicator, PREFLIGHT_MS, err);
}

static void first_sync_progress(void *ctx, uint64_t done, uint64_t parts)
{
	struct daemon *d = ctx;

	log_info("reading what the volume has volume=%s part=%llu of=%llu", d->config->name,
		(unsigned long long)done, (unsigned long long)parts);
	(void)sd_notifyf(0, "STATUS=Reading what the volume has, part %llu of %llu",
		(unsigned long long)done, (unsigned long long)parts);
}

static int set_durability(struct daemon *d, struct err *err)
{
	struct durability_rule rules[CONFIG_POLICY_MAX];
	struct durability_wish volume;
	unsigned count = 0;
	int r;

	config_durability(d->config, &volume, rules, &count);
	r = durability_set(d->cache, volume, rules, count);
	return r < 0 ? err_errno(err, r, "%s", d->config->name) : 0;
}

static int open_fs(struct daemon *d, struct err *err)
{
	const struct mount_options *m = d->options->mount;
	struct fs_options o = {.mountpoint = d->options->mountpoint,
		.fsname = d->options->source,
		.allow_other = d->config->allow_other,
		.deny_other = !d->config->allow_other,
		.read_only = m->read_only,
		.noatime = m->noatime,
		.nodiratime = m->nodiratime,
		.sync = m->sync,
		.dirsync = m->dirsync,
		.ids = &d->config->ids,
		.no_passthrough = d->config->passthrough != 0};
	struct buf extra CLEANUP(buf_done) = {0};

	buf_put(&extra, m->extra.data, m->extra.len);
	if (extra.len)
		o.extra = buf_str(&extra);
	return fs_open(d->cache, &o, &d->fs, err);
}

/* Before the mount, so that whoever sees that finds its daemon. It answers once all is started. */
static int open_control(struct daemon *d, struct err *err)
{
	const struct registry_entry e = {.volume = d->config->name,
		.mountpoint = d->options->mountpoint,
		.state_dir = d->config->state_dir,
		.config = d->config->path};
	int r = control_open(d->config->state_dir, command_handle, &d->command, &d->control, err);

	if (r < 0)
		return r;
	registry_prune();
	r = registry_add(&e);
	if (r < 0)
		log_debug("not in the registry error=\"%s\"", strerror(-r));
	return 0;
}

static int start_control(struct daemon *d, struct err *err)
{
	int r;

	d->command = (struct command_context){.config = d->config,
		.mountpoint = d->options->mountpoint,
		.read_only = d->options->mount->read_only,
		.started_ms = clock_realtime_ms(),
		.cache = d->cache,
		.replicator = d->replicator,
		.fs = d->fs,
		.stop = request_stop,
		.stop_ctx = d};
	r = thread_start(&d->signal_thread, "signals", signal_main, d);
	if (r < 0)
		return err_errno(err, r, "cannot start a thread");
	d->signal_started = true;
	return control_start(d->control, err);
}

static int start(struct daemon *d, struct err *err)
{
	struct cache_options cache = {.state_dir = d->config->state_dir,
		.reserve_bytes = d->config->reserve_size,
		.max_dirty = d->config->max_dirty,
		.max_backlog = d->config->max_backlog,
		.cache_size = d->config->cache_size,
		.min_free = d->config->min_free.bytes,
		.min_free_percent = d->config->min_free.percent};
	int r = prepare_mountpoint(d->options->mountpoint, err);

	if (r == 0)
		r = check_places(d, err);
	if (r < 0)
		return r;
	make_state_parent(d->config);
	r = cache_open(&cache, &d->cache, err);
	if (r == 0 && cache_dir_volatile(d->config->state_dir))
		log_warn("the state directory is in memory: what is not pushed dies with this "
			 "machine state_dir=%s",
			d->config->state_dir);
	if (r == 0)
		r = set_durability(d, err);
	if (r == 0)
		r = open_replicator(d, err);
	if (r == 0)
		r = replicator_first_sync(
			d->replicator, d->config->first_sync_ms, first_sync_progress, d, err);
	if (r == 0)
		r = open_fs(d, err);
	if (r == 0)
		r = open_control(d, err);
	if (r == 0)
		r = fs_mount(d->fs, err);
	if (r == 0)
		r = replicator_start(d->replicator, err);
	if (r == 0)
		r = start_control(d, err);
	return r;
}

static void announce(const struct daemon *d)
{
	log_info("mounted volume=%s mountpoint=%s regions=%u version=%s", d->config->name,
		d->options->mountpoint, d->config->regions, MERIDIAN_VERSION);
	(void)sd_notifyf(
		0, "READY=1\nSTATUS=Serving %s on %s", d->config->name, d->options->mountpoint);
}

/* Leaves the terminal; from here on the log is the only voice. */
static void detach(const struct config *c)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), log = -1;

	if (c->log_file)
		log = open(
			c->log_file, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
	else
		log_use_syslog("meridian");
	if (null >= 0) {
		(void)dup2(null, STDIN_FILENO);
		(void)dup2(null, STDOUT_FILENO);
		(void)dup2(log >= 0 ? log : null, STDERR_FILENO);
		close(null);
	}
	if (log >= 0)
		close(log);
}

/* Going down. */

static void join_signals(struct daemon *d)
{
	if (!d->signal_started)
		return;
	d->ended = true;
	pthread_kill(d->signal_thread, SIGTERM);
	CHECK(pthread_join(d->signal_thread, NULL) == 0);
	d->signal_started = false;
	if (d->drain_started) {
		CHECK(pthread_join(d->drain_thread, NULL) == 0);
		d->drain_started = false;
	}
}

/* The mount is gone: nothing new comes in. */
static void last_drain(struct daemon *d)
{
	int64_t left = d->deadline_ms ? d->deadline_ms - clock_monotonic_ms()
				      : d->config->drain_timeout_ms;
	char text[512];

	if (d->deadline_ms && left < LAST_DRAIN_MS && d->config->drain_timeout_ms >= LAST_DRAIN_MS)
		left = LAST_DRAIN_MS;
	if (command_left(d->replicator, text, sizeof(text)))
		drain(d, left);
	if (command_left(d->replicator, text, sizeof(text)))
		log_warn("stopped with changes that wait for the next mount volume=%s left=\"%s\"",
			d->config->name, text);
	else
		log_info("drained volume=%s", d->config->name);
}

static int serve(struct daemon *d, struct err *err)
{
	int r = fs_run(d->fs);

	if (!d->deadline_ms) {
		log_info("unmounted volume=%s mountpoint=%s", d->config->name,
			d->options->mountpoint);
		(void)sd_notify(0, "STOPPING=1\nSTATUS=Draining");
	}
	d->command.stopping = true;
	fs_unmount(d->fs);
	registry_remove(d->options->mountpoint, d->config->state_dir);
	last_drain(d);
	return r < 0 ? err_errno(err, r, "%s: the mount failed", d->options->mountpoint) : 0;
}

static void stop(struct daemon *d)
{
	control_stop(d->control);
	join_signals(d);
	if (d->replicator)
		replicator_stop(d->replicator);
	fs_free(d->fs);
	replicator_free(d->replicator);
	if (d->cache)
		cache_close(d->cache);
}

int daemon_run(const struct daemon_options *o, int ready_fd, struct err *err)
{
	struct daemon d = {.options = o, .config = o->config};
	int r;

	block_signals();
	raise_limits();
	log_set_level((enum log_level)o->config->log_level);
	r = start(&d, err);
	if (r < 0 && d.control) {
		registry_remove(o->mountpoint, o->config->state_dir);
	} else if (r == 0) {
		if (ready_fd >= 0)
			detach(o->config);
		announce(&d);
		tell_parent(ready_fd, 0, NULL);
		ready_fd = -1;
		r = serve(&d, err);
		if (r < 0)
			log_error("%s", err->text);
	}
	stop(&d);
	/* Only now: who reads it may try again at once, and must find the state unlocked. */
	if (r < 0)
		tell_parent(ready_fd, r, err);
	return r;
}

static _Noreturn void child_main(const struct daemon_options *o, int fd)
{
	struct err err = {0};

	(void)setsid();
	if (chdir("/") < 0)
		_exit(1);
	/* A daemon that is started by hand must not speak for the unit of the shell that it came
	 * from. */
	unsetenv("NOTIFY_SOCKET");
	_exit(daemon_run(o, fd, &err) < 0);
}

int daemon_spawn(const struct daemon_options *o, struct err *err)
{
	struct ready_message m;
	int fds[2];
	ssize_t n;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, -errno, "cannot make a pipe");
	pid = fork();
	if (pid < 0) {
		int r = -errno;

		close(fds[0]);
		close(fds[1]);
		return err_errno(err, r, "cannot start the daemon");
	}
	if (pid == 0) {
		close(fds[0]);
		child_main(o, fds[1]);
	}
	close(fds[1]);
	do
		n = read(fds[0], &m, sizeof(m));
	while (n < 0 && errno == EINTR);
	close(fds[0]);
	if (n != (ssize_t)sizeof(m))
		return err_set(err, -EIO,
			"the daemon ended before the volume was mounted\nhint: `meridian mount -f` "
			"shows its log");
	m.err.text[sizeof(m.err.text) - 1] = '\0';
	if (m.result < 0 && err)
		*err = m.err;
	return m.result;
}
