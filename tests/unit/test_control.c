/* The control socket: requests, streamed answers, hostile clients, and the end of the server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/control.h"
#include "src/mounts.h"

struct fixture {
	char dir[64];
	struct control *control;
	atomic_int running;
};

static int handler(void *ctx, struct control_client *client, unsigned words,
	const char *const *word, struct err *err)
{
	struct fixture *f = ctx;

	if (strcmp(word[0], "echo") == 0) {
		for (unsigned i = 1; i < words; i++)
			if (!control_send(client, word[i]))
				return -EPIPE;
		return 0;
	}
	if (strcmp(word[0], "progress") == 0)
		return control_progress(client, "3 left") && control_progress(client, "2 left")
			       ? 0
			       : -EPIPE;
	if (strcmp(word[0], "fail") == 0)
		return err_set(err, -ETIMEDOUT, "region \"a\": 5 %% left\nhint: wait");
	if (strcmp(word[0], "block") == 0) {
		atomic_fetch_add(&f->running, 1);
		while (control_progress(client, "still"))
			clock_sleep_ms(10);
		atomic_fetch_sub(&f->running, 1);
		return -ECANCELED;
	}
	return err_set(err, -EINVAL, "unknown");
}

static int setup(void **state)
{
	static struct fixture f;
	struct err err = {0};

	snprintf(f.dir, sizeof(f.dir), "/tmp/meridian-control.XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	atomic_store(&f.running, 0);
	assert_int_equal(control_open(f.dir, handler, &f, &f.control, &err), 0);
	assert_int_equal(control_start(f.control, &err), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	control_stop(f->control);
	assert_int_equal(rmdir(f->dir), 0); /* the socket is gone */
	return 0;
}

static void collect(void *ctx, bool progress, const char *text)
{
	buf_printf(ctx, "%s%s|", progress ? "~" : "", text);
}

static int ask(int fd, struct buf *out, struct err *err, unsigned words, const char *const *word)
{
	buf_clear(out);
	memset(err, 0, sizeof(*err));
	return control_request(fd, words, word, 5000, collect, out, err);
}
#define ASK(fd, out, err, ...)                                                                     \
	ask(fd, out, err, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),             \
		(const char *const[]){__VA_ARGS__})

static void test_requests(void **state)
{
	struct fixture *f = *state;
	struct buf out CLEANUP(buf_done) = {0};
	struct err err;
	pid_t pid = 0;
	int fd = control_connect(f->dir, &pid);

	assert_true(fd >= 0);
	assert_int_equal(pid, getpid());
	assert_int_equal(
		ASK(fd, &out, &err, "echo", "one two", "", "three\nlines\n\xff", "%41"), 0);
	assert_string_equal(buf_str(&out), "one two|three|lines|\xff|%41|");
	assert_int_equal(ASK(fd, &out, &err, "progress"), 0);
	assert_string_equal(buf_str(&out), "~3 left|~2 left|");
	assert_int_equal(ASK(fd, &out, &err, "fail"), -ETIMEDOUT);
	assert_string_equal(err.text, "region \"a\": 5 % left\nhint: wait");
	assert_int_equal(ASK(fd, &out, &err, "nonsense"), -EINVAL);
	close(fd);
}

static void test_socket_is_private(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/" CONTROL_NAME, f->dir);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* Sends raw bytes and reads until the server closes; the answer must begin with want. */
static void hostile(const char *dir, const void *bytes, size_t n, const char *want)
{
	int fd = control_connect(dir, NULL);
	char answer[256] = "";
	size_t have = 0;
	ssize_t k;

	assert_true(fd >= 0);
	(void)!send(fd, bytes, n, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while ((k = recv(fd, answer + have, sizeof(answer) - 1 - have, 0)) > 0)
		have += (size_t)k;
	answer[have] = '\0';
	close(fd);
	if (strncmp(answer, want, strlen(want)) != 0)
		fail_msg("\"%s\" does not begin with \"%s\"", answer, want);
}

static void test_hostile_requests(void **state)
{
	struct fixture *f = *state;
	struct buf out CLEANUP(buf_done) = {0};
	char *large = malloc(3 * CONTROL_LINE_MAX);
	struct err err;
	int fd;

	memset(large, 'x', 3 * CONTROL_LINE_MAX);
	hostile(f->dir, large, 3 * CONTROL_LINE_MAX, "");
	hostile(f->dir, "\n", 1, "error 22");
	hostile(f->dir, " \n", 2, "error 22");
	hostile(f->dir, "echo %\n", 7, "error 22");
	hostile(f->dir, "echo %00\n", 9, "error 22");
	hostile(f->dir, "ec\0ho\n", 6, "error 22");
	hostile(f->dir, "echo a b c d e f g h i\n", 23, "error 22");
	hostile(f->dir, "echo", 4, "");
	hostile(f->dir, "", 0, "");
	large[3 * CONTROL_LINE_MAX - 1] = '\0';
	fd = control_connect(f->dir, NULL);
	assert_int_equal(ASK(fd, &out, &err, "echo", large), -ENAMETOOLONG);
	assert_int_equal(ASK(fd, &out, &err, "echo", "alive"), 0);
	close(fd);
	free(large);
}

static void test_at_most_so_many_clients(void **state)
{
	struct fixture *f = *state;
	struct buf out CLEANUP(buf_done) = {0};
	int fd[CONTROL_CLIENTS_MAX], one;
	struct err err;

	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		fd[i] = control_connect(f->dir, NULL);
		assert_int_equal(ASK(fd[i], &out, &err, "echo", "x"), 0);
	}
	one = control_connect(f->dir, NULL);
	assert_int_equal(ASK(one, &out, &err, "echo", "x"), -EAGAIN);
	close(one);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		close(fd[i]);
	/* The slots come back. */
	for (int tries = 0; tries < 500; tries++) {
		one = control_connect(f->dir, NULL);
		if (ASK(one, &out, &err, "echo", "x") == 0)
			break;
		close(one);
		one = -1;
		clock_sleep_ms(10);
	}
	assert_true(one >= 0);
	close(one);
}

/* A client that goes away ends its request; the end of the server ends all of them. */
static void test_blocked_requests_end(void **state)
{
	struct fixture *f = *state;
	int gone = control_connect(f->dir, NULL), stays = control_connect(f->dir, NULL);

	assert_int_equal(send(gone, "block\n", 6, 0), 6);
	assert_int_equal(send(stays, "block\n", 6, 0), 6);
	while (atomic_load(&f->running) < 2)
		clock_sleep_ms(1);
	close(gone);
	while (atomic_load(&f->running) > 1)
		clock_sleep_ms(1);
	control_stop(f->control);
	assert_int_equal(atomic_load(&f->running), 0);
	f->control = NULL;
	close(stays);
	assert_int_equal(control_connect(f->dir, NULL), -ENOENT);
}

/* While the daemon starts. */
static void test_before_it_serves(void **state)
{
	struct fixture *f = *state;
	struct control *second = NULL;
	struct err err = {0};
	char path[400];
	struct pollfd p = {.events = POLLIN};

	snprintf(path, sizeof(path), "%s/s", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(control_open(path, handler, f, &second, &err), 0);
	p.fd = control_connect(path, NULL);
	assert_true(p.fd >= 0);
	assert_int_equal(send(p.fd, "unknown\n", 8, 0), 8);
	assert_int_equal(poll(&p, 1, 100), 0);
	assert_int_equal(control_start(second, &err), 0);
	assert_int_equal(poll(&p, 1, 10000), 1);
	close(p.fd);
	control_stop(second);
	/* One that never serves. */
	assert_int_equal(control_open(path, handler, f, &second, &err), 0);
	control_stop(second);
	assert_int_equal(rmdir(path), 0);
}

static void test_long_directory_and_old_socket(void **state)
{
	struct fixture *f = *state;
	struct control *second = NULL;
	struct err err = {0};
	char path[400];
	size_t n = (size_t)snprintf(path, sizeof(path), "%s/", f->dir);
	int fd;

	memset(path + n, 'd', 200);
	path[n + 200] = '\0';
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(control_open(path, handler, f, &second, &err), 0);
	assert_int_equal(control_start(second, &err), 0);
	fd = control_connect(path, NULL);
	assert_true(fd >= 0);
	close(fd);
	control_stop(second);
	assert_int_equal(control_open(path, handler, f, &second, &err), 0);
	control_stop(second);
	assert_int_equal(rmdir(path), 0);
	assert_true(control_open(path, handler, f, &second, &err) < 0);
	assert_non_null(strstr(err.text, path));
}

/* A daemon that does not serve yet, and whose queue is full: who only wants to know is not held up. */
static void test_full_queue(void **state)
{
	char dir[64] = "/tmp/meridian-control.XXXXXX";
	int fd[CONTROL_CLIENTS_MAX];
	struct control *control;
	struct err err = {0};

	assert_non_null(mkdtemp(dir));
	assert_true(control_is_gone(dir));
	assert_int_equal(control_open(dir, handler, NULL, &control, &err), 0);
	assert_false(control_is_gone(dir));
	alarm(20); /* ends the program where something blocks */
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		fd[i] = control_connect(dir, NULL);
		assert_true(fd[i] >= 0);
	}
	/* The kernel takes one or two more. */
	for (size_t i = 0; i < 16; i++)
		assert_false(control_is_gone(dir));
	alarm(0);
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
		close(fd[i]);
	control_stop(control);
	assert_true(control_is_gone(dir));
	assert_int_equal(rmdir(dir), 0);
	assert_true(control_is_gone(dir));
}

static void test_mount_table(void **state)
{
	static const char table[] = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
				    "40 21 0:50 / /srv/orders rw shared:9 master:2 - fuse.meridian "
				    "orders rw,user_id=0\n"
				    "41 21 0:51 / /srv/with\\040space rw - fuse.meridian x rw\n"
				    "42 40 0:52 / /srv/orders/inner rw - tmpfs tmpfs rw\n"
				    "43 21 0:50 /sub /mnt/bind rw - fuse.meridian orders rw\n"
				    "malformed\n";
	struct mount_entry *e = malloc(sizeof(*e));

	assert_int_equal(mounts_covering_in(table, "/srv/orders/a/b", e), 0);
	assert_string_equal(e->mountpoint, "/srv/orders");
	assert_string_equal(e->type, MOUNTS_TYPE);
	assert_int_equal(mounts_covering_in(table, "/srv/ordersx", e), 0);
	assert_string_equal(e->mountpoint, "/");
	assert_int_equal(mounts_covering_in(table, "/srv/orders/inner/x", e), 0);
	assert_string_equal(e->type, "tmpfs");
	assert_int_equal(mounts_covering_in(table, "/srv/with space/x", e), 0);
	assert_string_equal(e->mountpoint, "/srv/with space");
	assert_int_equal(mounts_covering_in(table, "/mnt/bind/x", e), 0);
	assert_string_equal(e->root, "/sub");
	assert_int_equal(mounts_covering_in("", "/x", e), -ENOENT);
	free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_socket_is_private, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_at_most_so_many_clients, setup, teardown),
		cmocka_unit_test_setup_teardown(test_blocked_requests_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_before_it_serves, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_long_directory_and_old_socket, setup, teardown),
		cmocka_unit_test(test_full_queue),
		cmocka_unit_test(test_mount_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
