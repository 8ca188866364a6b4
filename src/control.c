/*
 * Why this file: the daemon's side of the control socket. A thread accepts; each client, at most
 * CONTROL_CLIENTS_MAX, has a thread, because a flush blocks for as long as a region is away. A
 * client that sends nothing or reads nothing is cut after CONTROL_IDLE_MS.
 *
 * lock guards the slots. A slot is FREE, RUNNING (its thread serves fd), or ENDED (the thread is
 * about to return and has closed fd; to be joined by the accepting thread or by control_stop).
 */
#include "src/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/thread.h"
#include "src/text.h"

enum slot_state { SLOT_FREE, SLOT_RUNNING, SLOT_ENDED };

struct control_client {
	struct control *control;
	enum slot_state state; /* lock */
	pthread_t thread;      /* lock */
	int fd;		       /* lock; written by the client's thread only when it ends */
	bool broken;	       /* the client's thread: a send failed */
};

struct control {
	int dir_fd;
	int listen_fd;
	int stop_fd;
	control_handler handler;
	void *ctx;
	pthread_t acceptor;
	bool started;
	struct mutex lock;
	_Atomic bool stopping;
	struct control_client client[CONTROL_CLIENTS_MAX];
};

static bool stopping(struct control *c)
{
	/* Without the lock: progress is told from under other locks, too. */
	return atomic_load(&c->stopping);
}

static bool send_all(int fd, const void *data, size_t n)
{
	const char *p = data;

	while (n > 0) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL); /* bounded by SO_SNDTIMEO */

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

static bool send_lines(struct control_client *client, char kind, const char *text)
{
	struct buf out CLEANUP(buf_done) = {0};

	while (*text) {
		size_t n = strcspn(text, "\n");

		buf_put_u8(&out, (uint8_t)kind);
		buf_put_u8(&out, ' ');
		buf_put(&out, text, n);
		buf_put_u8(&out, '\n');
		text += n + (text[n] == '\n');
	}
	if (out.failed || client->broken || stopping(client->control))
		return false;
	client->broken = !send_all(client->fd, out.data, out.len);
	return !client->broken;
}

bool control_send(struct control_client *client, const char *text)
{
	return send_lines(client, '=', text);
}

bool control_progress(struct control_client *client, const char *text)
{
	return send_lines(client, '~', text);
}

static bool send_result(struct control_client *client, int r, const struct err *err)
{
	struct buf out CLEANUP(buf_done) = {0};

	if (r == 0) {
		buf_put_str(&out, "ok\n");
	} else {
		const char *text = err->text[0] ? err->text : strerror(-r);

		buf_printf(&out, "error %d ", -r);
		text_escape(&out, text, strlen(text));
		buf_put_u8(&out, '\n');
	}
	return !client->broken && !out.failed && send_all(client->fd, out.data, out.len);
}

/* Splits and decodes a request. False for anything malformed. */
static bool split_words(
	const char *line, size_t n, struct buf *text, const char **word, unsigned *words)
{
	size_t at[CONTROL_WORDS_MAX], start = 0;
	unsigned count = 0;

	for (size_t i = 0; i <= n; i++) {
		if (i < n && line[i] != ' ')
			continue;
		if (count == CONTROL_WORDS_MAX)
			return false;
		at[count++] = text->len;
		if (!text_unescape(text, line + start, i - start))
			return false;
		buf_put_u8(text, 0);
		start = i + 1;
	}
	if (text->failed)
		return false;
	for (unsigned i = 0; i < count; i++)
		word[i] = (const char *)text->data + at[i];
	*words = count;
	return *word[0] != '\0';
}

/* Serves one line. False: the connection is to be closed. */
static bool serve_line(struct control_client *client, const char *line, size_t n)
{
	struct control *c = client->control;
	struct buf text CLEANUP(buf_done) = {0};
	const char *word[CONTROL_WORDS_MAX];
	struct err err = {0};
	unsigned words;
	int r;

	if (memchr(line, '\0', n) || !split_words(line, n, &text, word, &words)) {
		(void)err_set(&err, -EINVAL, "malformed request");
		(void)send_result(client, -EINVAL, &err);
		return false;
	}
	r = c->handler(c->ctx, client, words, word, &err);
	return send_result(client, r, &err);
}

/* Reads until a newline is in line. Its offset, or -1 at the end, after CONTROL_IDLE_MS or when it
 * is too long. */
static ssize_t read_line(int fd, char *line, size_t *have)
{
	int64_t end = clock_monotonic_ms() + CONTROL_IDLE_MS;

	for (;;) {
		char *newline = memchr(line, '\n', *have);
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int64_t left = end - clock_monotonic_ms();
		ssize_t n;

		if (newline)
			return newline - line;
		if (*have == CONTROL_LINE_MAX || left <= 0)
			return -1;
		if (poll(&p, 1, (int)left) <= 0)
			continue;
		n = recv(fd, line + *have, CONTROL_LINE_MAX - *have, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			return -1;
		if (n > 0)
			*have += (size_t)n;
	}
}

static void *client_main(void *arg)
{
	struct control_client *client = arg;
	struct control *c = client->control;
	char *line AUTO_FREE = malloc(CONTROL_LINE_MAX);
	size_t have = 0;
	ssize_t n;

	while (line && !stopping(c) && (n = read_line(client->fd, line, &have)) >= 0) {
		if (!serve_line(client, line, (size_t)n))
			break;
		have -= (size_t)n + 1;
		memmove(line, line + n + 1, have);
	}
	mutex_lock(&c->lock);
	close(client->fd);
	client->fd = -1;
	client->state = SLOT_ENDED;
	mutex_unlock(&c->lock);
	return NULL;
}

static bool peer_allowed(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

/* A slot whose thread is not running, joined; NULL when all are busy. Only the acceptor calls it.
 */
static struct control_client *free_slot(struct control *c)
{
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		struct control_client *client = &c->client[i];
		enum slot_state state;

		mutex_lock(&c->lock);
		state = client->state;
		mutex_unlock(&c->lock);
		if (state == SLOT_RUNNING)
			continue;
		if (state == SLOT_ENDED) {
			CHECK(pthread_join(client->thread, NULL) == 0);
			mutex_lock(&c->lock);
			client->state = SLOT_FREE;
			mutex_unlock(&c->lock);
		}
		return client;
	}
	return NULL;
}

static void reject(int fd, const char *text)
{
	(void)send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void accept_client(struct control *c)
{
	const struct timeval patience = {.tv_sec = CONTROL_IDLE_MS / 1000};
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC), r;
	struct control_client *client;

	if (fd < 0) {
		/* Out of descriptors: the connection stays pending and poll returns at once. */
		if (errno == EMFILE || errno == ENFILE)
			clock_sleep_ms(100);
		return;
	}
	if (!peer_allowed(fd)) {
		reject(fd, "error 1 only%20root%20and%20the%20daemon's%20user%20may%20ask\n");
		return;
	}
	client = free_slot(c);
	if (!client) {
		reject(fd, "error 11 too%20many%20clients%20at%20once\n");
		return;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	mutex_lock(&c->lock);
	*client = (struct control_client){.control = c, .state = SLOT_RUNNING, .fd = fd};
	r = thread_start(&client->thread, "control-client", client_main, client);
	if (r < 0) {
		client->state = SLOT_FREE;
		client->fd = -1;
	}
	mutex_unlock(&c->lock);
	if (r < 0)
		reject(fd, "error 12 no%20thread%20for%20another%20client\n");
}

static void *accept_main(void *arg)
{
	struct control *c = arg;
	struct pollfd p[2] = {
		{.fd = c->listen_fd, .events = POLLIN}, {.fd = c->stop_fd, .events = POLLIN}};

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		if (p[0].revents)
			accept_client(c);
	}
	return NULL;
}

/* sun_path holds 108 bytes and a state directory may be longer: go through its descriptor. */
static void socket_address(int dir_fd, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/" CONTROL_NAME,
		dir_fd);
}

static int make_socket(struct control *c, const char *directory)
{
	struct sockaddr_un address;

	c->dir_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (c->dir_fd < 0)
		return -errno;
	/* The state's lock is held: an old socket belongs to nobody. */
	if (unlinkat(c->dir_fd, CONTROL_NAME, 0) < 0 && errno != ENOENT)
		return -errno;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	c->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (c->listen_fd < 0 || c->stop_fd < 0)
		return -errno;
	/* On Linux the new socket takes the mode of the descriptor, so it is never open to others.
	 */
	socket_address(c->dir_fd, &address);
	if (fchmod(c->listen_fd, 0600) < 0 ||
		bind(c->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		fchmodat(c->dir_fd, CONTROL_NAME, 0600, 0) < 0 ||
		listen(c->listen_fd, CONTROL_CLIENTS_MAX) < 0)
		return -errno;
	return 0;
}

static void release(struct control *c)
{
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->stop_fd >= 0)
		close(c->stop_fd);
	if (c->dir_fd >= 0)
		close(c->dir_fd);
	mutex_done(&c->lock);
	free(c);
}

int control_open(const char *directory, control_handler handler, void *ctx, struct control **ret,
	struct err *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_errno(err, -ENOMEM, "%s/" CONTROL_NAME, directory);
	c->dir_fd = c->listen_fd = c->stop_fd = -1;
	c->handler = handler;
	c->ctx = ctx;
	mutex_init(&c->lock, LOCK_RANK_LEAF);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		c->client[i].fd = -1;
	r = make_socket(c, directory);
	if (r < 0) {
		release(c);
		return err_errno(err, r, "%s/" CONTROL_NAME, directory);
	}
	*ret = c;
	return 0;
}

int control_start(struct control *c, struct err *err)
{
	int r = thread_start(&c->acceptor, "control", accept_main, c);

	if (r < 0)
		return err_errno(err, r, "cannot start a thread");
	c->started = true;
	return 0;
}

void control_stop(struct control *c)
{
	uint64_t one = 1;

	if (!c)
		return;
	mutex_lock(&c->lock);
	atomic_store(&c->stopping, true);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			shutdown(c->client[i].fd,
				SHUT_RD); /* the answer under way may still leave */
	mutex_unlock(&c->lock);
	CHECK(write(c->stop_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
	if (c->started)
		CHECK(pthread_join(c->acceptor, NULL) == 0);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		bool started;

		/* Nobody starts or joins threads any more. One that was accepted after the loop
		 * above sees stopping before it reads. */
		mutex_lock(&c->lock);
		started = c->client[i].state != SLOT_FREE;
		mutex_unlock(&c->lock);
		if (started)
			CHECK(pthread_join(c->client[i].thread, NULL) == 0);
	}
	(void)unlinkat(c->dir_fd, CONTROL_NAME, 0);
	release(c);
}
