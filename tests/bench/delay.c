/*
 * delay: TCP ports that lead to other ports, as far away as asked for.
 *
 *   delay TARGET-PORT...    listens on a free port of 127.0.0.1 for each target there, and prints the ports
 *
 * Then it reads lines:  "rtt MS"  the round trip from now on      -> "ok"
 *                       "stats"   what passed since the start     -> one line a port: connections requests
 *                                                                    bytes-to-target bytes-back
 * and ends with its input. In Python this would be the slowest part of what it measures.
 *
 * Each direction of a connection is a queue of chunks with the time at which each is due: half a round trip
 * after it was read. What a new connection sends is a whole round trip later, as if the connection had been
 * made through the line. A direction holds WINDOW bytes at the most, as a TCP window would. Requests are
 * counted as turns: something is sent after an answer ("100 Continue" is none), so pipelining would not be seen.
 *
 * One thread, edge-triggered epoll; a flag for each end says whether it is worth reading or writing.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK ((size_t)64 << 10)
#define WINDOW ((size_t)2 << 20)
#define PORTS_MAX 32

struct chunk {
	struct chunk *next;
	int64_t due_ns;
	size_t len, done; /* len 0: the end */
	char data[];
};

struct port {
	int listener;
	uint16_t target;
	uint64_t connections, requests, to_target, back;
};

enum { CLIENT, TARGET };

struct end {
	int fd;
	bool readable, writable, ended; /* ended: nothing more will be read */
	struct connection *c;
};

/* from end[i] to the other one */
struct line {
	struct chunk *head, **tail;
	size_t bytes;
	bool shut; /* the end was passed on */
};

struct connection {
	struct connection *next, **link;
	struct port *port;
	struct end end[2];
	struct line line[2];
	int64_t open_ns; /* nothing that the client sent is due before */
	bool answered;	 /* the next bytes of the client are a request */
	bool broken;
};

static struct port ports[PORTS_MAX];
static unsigned port_count;
static struct connection *connections;
static struct connection *dead; /* freed when no event can name them any more */
static int64_t one_way_ns;
static int poll_fd;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void watch(int fd, uint32_t events, void *what)
{
	struct epoll_event e = {.events = events, .data.ptr = what};

	if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll_ctl");
}

static void no_delay(int fd)
{
	int yes = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

static void drop(struct connection *c)
{
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	for (int i = 0; i < 2; i++) {
		close(c->end[i].fd);
		while (c->line[i].head) {
			struct chunk *next = c->line[i].head->next;
			free(c->line[i].head);
			c->line[i].head = next;
		}
	}
	c->next = dead;
	dead = c;
}

static void free_dead(void)
{
	while (dead) {
		struct connection *next = dead->next;
		free(dead);
		dead = next;
	}
}

static void count(struct connection *c, int from, const struct chunk *k)
{
	if (from == CLIENT) {
		c->port->requests += c->answered;
		c->answered = false;
		c->port->to_target += k->len;
		return;
	}
	c->port->back += k->len;
	if (k->len < 12 || memcmp(k->data, "HTTP/1.1 100", 12) != 0)
		c->answered = true;
}

static void take_in(struct connection *c, int from)
{
	struct end *e = &c->end[from];
	struct line *l = &c->line[from];

	while (e->readable && !e->ended && l->bytes < WINDOW) {
		char data[CHUNK];
		ssize_t n = read(e->fd, data, sizeof(data));

		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			e->readable = errno == EINTR;
			continue;
		}
		if (n < 0)
			n = 0;
		struct chunk *k = malloc(sizeof(*k) + (size_t)n);
		if (!k)
			die("malloc");
		*k = (struct chunk){.due_ns = now_ns() + one_way_ns, .len = (size_t)n};
		memcpy(k->data, data, (size_t)n);
		if (from == CLIENT && k->due_ns < c->open_ns)
			k->due_ns = c->open_ns;
		e->ended = n == 0;
		*l->tail = k;
		l->tail = &k->next;
		l->bytes += k->len;
		if (n)
			count(c, from, k);
	}
}

/* Returns when the next chunk is due; 0: nothing waits for its time. */
static int64_t give_out(struct connection *c, int from, int64_t now)
{
	struct line *l = &c->line[from];
	struct end *to = &c->end[!from];

	while (l->head && to->writable) {
		struct chunk *k = l->head;

		if (k->due_ns > now)
			return k->due_ns;
		while (k->done < k->len && to->writable && !c->broken) {
			ssize_t n = send(to->fd, k->data + k->done, k->len - k->done, MSG_NOSIGNAL);
			if (n >= 0)
				k->done += (size_t)n;
			else if (errno == EAGAIN)
				to->writable = false;
			else if (errno != EINTR)
				c->broken = true;
		}
		if (c->broken || k->done < k->len)
			return 0;
		if (k->len == 0) {
			shutdown(to->fd, SHUT_WR);
			l->shut = true;
		}
		l->bytes -= k->len;
		l->head = k->next;
		if (!l->head)
			l->tail = &l->head;
		free(k);
	}
	return 0;
}

/* What can be done now; returns when there is more to do, 0: when an event says so. */
static int64_t work(struct connection *c, int64_t now)
{
	int64_t next = 0;

	for (int from = 0; from < 2; from++) {
		size_t before;

		do {
			int64_t due;

			take_in(c, from);
			before = c->line[from].bytes;
			due = give_out(c, from, now);
			if (due && (!next || due < next))
				next = due;
		} while (c->line[from].bytes < before && c->end[from].readable &&
			 !c->end[from].ended);
	}
	if (c->broken || (c->line[0].shut && c->line[1].shut)) {
		drop(c);
		return 0;
	}
	return next;
}

static void add(struct port *p)
{
	int fd = accept4(p->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(p->target)};

	if (fd < 0)
		return;
	int up = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (up < 0)
		die("socket");
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(up, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS) {
		close(up);
		close(fd);
		return;
	}
	no_delay(fd);
	no_delay(up);
	struct connection *c = calloc(1, sizeof(*c));
	if (!c)
		die("calloc");
	*c = (struct connection){.next = connections,
		.link = &connections,
		.port = p,
		.open_ns = now_ns() + 3 * one_way_ns,
		.answered = true};
	if (c->next)
		c->next->link = &c->next;
	connections = c;
	p->connections++;
	for (int i = 0; i < 2; i++) {
		c->line[i].tail = &c->line[i].head;
		c->end[i] = (struct end){.fd = i == CLIENT ? fd : up, .c = c};
		watch(c->end[i].fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->end[i]);
	}
}

static void command(void)
{
	char line[64];
	long ms;

	if (!fgets(line, sizeof(line), stdin))
		exit(0);
	if (sscanf(line, "rtt %ld", &ms) == 1) {
		one_way_ns = ms * 500000;
		puts("ok");
	} else {
		for (unsigned i = 0; i < port_count; i++)
			printf("%llu %llu %llu %llu\n", (unsigned long long)ports[i].connections,
				(unsigned long long)ports[i].requests,
				(unsigned long long)ports[i].to_target,
				(unsigned long long)ports[i].back);
	}
	fflush(stdout);
}

static void listen_for(struct port *p, const char *target)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	p->target = (uint16_t)atoi(target);
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (p->listener < 0 || bind(p->listener, (struct sockaddr *)&at, sizeof(at)) < 0 ||
		listen(p->listener, 1024) < 0 ||
		getsockname(p->listener, (struct sockaddr *)&at, &len) < 0)
		die("listen");
	watch(p->listener, EPOLLIN, p);
	printf("%u\n", ntohs(at.sin_port));
}

static void handle(const struct epoll_event *e)
{
	if (!e->data.ptr) {
		command();
		return;
	}
	if ((char *)e->data.ptr >= (char *)ports &&
		(char *)e->data.ptr < (char *)(ports + PORTS_MAX)) {
		add(e->data.ptr);
		return;
	}
	struct end *end = e->data.ptr;
	end->readable |= (e->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	end->writable |= (e->events & EPOLLOUT) != 0;
	end->c->broken |= (e->events & EPOLLERR) != 0;
}

int main(int argc, char **argv)
{
	struct epoll_event events[256];
	int64_t next = 0;

	poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (argc < 2 || argc - 1 > PORTS_MAX || poll_fd < 0)
		die("usage: delay TARGET-PORT...");
	for (int i = 1; i < argc; i++)
		listen_for(&ports[port_count++], argv[i]);
	fflush(stdout);
	setvbuf(stdin, NULL, _IONBF, 0);
	watch(STDIN_FILENO, EPOLLIN, NULL);
	for (;;) {
		int64_t left = next ? next - now_ns() : 0;
		struct timespec t = {.tv_sec = left > 0 ? left / 1000000000 : 0,
			.tv_nsec = left > 0 ? left % 1000000000 : 0};
		int n = epoll_pwait2(poll_fd, events, 256, next ? &t : NULL, NULL);

		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++)
			handle(&events[i]);
		int64_t now = now_ns();
		next = 0;
		for (struct connection *c = connections, *after; c; c = after) {
			after = c->next;
			int64_t due = work(c, now);
			if (due && (!next || due < next))
				next = due;
		}
		free_dead();
	}
}
