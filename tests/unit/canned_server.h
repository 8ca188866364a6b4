/*
 * A scripted HTTP server for tests: answers the n-th request with the n-th step, whatever it was,
 * and keeps each request's head. One connection at a time, on a free port of 127.0.0.1.
 */
#ifndef TEST_CANNED_SERVER_H
#define TEST_CANNED_SERVER_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/base/attribute.h"

struct canned_step {
	const char *reply; /* sent as it is; NULL: nothing */
	bool hang_up;	   /* close the connection afterwards */
	bool early;	   /* reply after the head, before the body is read */
	bool silent;	   /* hold the connection and say nothing, until the client leaves */
};

#define CANNED_MAX 16

struct canned_server {
	int listener;
	unsigned port;
	pthread_t thread;
	const struct canned_step *step;
	unsigned step_count;
	_Atomic unsigned seen; /* requests answered */
	char head[CANNED_MAX][16384];
	size_t body[CANNED_MAX]; /* bytes of body that came */
	char origin[64];
};

/* Reads a head and, unless early, its body. False when the client left. */
static inline bool canned_read(
	struct canned_server *c, int fd, const struct canned_step *step, unsigned n)
{
	size_t have = 0, body = 0;
	char *head = c->head[n], *end;
	do {
		ssize_t got = read(fd, head + have, sizeof(c->head[n]) - 1 - have);
		if (got <= 0)
			return false;
		have += (size_t)got;
		head[have] = 0;
		end = strstr(head, "\r\n\r\n");
	} while (!end && have < sizeof(c->head[n]) - 1);
	if (!end)
		return false;
	body = have - (size_t)(end + 4 - head);
	const char *length = strcasestr(head, "\r\ncontent-length:");
	size_t want = length && !step->early ? strtoull(length + 17, NULL, 10) : 0;
	if (body < want && strcasestr(head, "100-continue"))
		(void)!write(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	char sink[16384];
	while (body < want) {
		ssize_t got = read(fd, sink, sizeof(sink));
		if (got <= 0)
			return false;
		body += (size_t)got;
	}
	c->body[n] = body;
	return true;
}

static inline void *canned_run(void *arg)
{
	struct canned_server *c = arg;
	while (c->seen < c->step_count) {
		int fd = accept(c->listener, NULL, NULL);
		if (fd < 0)
			return NULL;
		while (c->seen < c->step_count) {
			const struct canned_step *step = &c->step[c->seen];
			if (!canned_read(c, fd, step, c->seen))
				break;
			c->seen++;
			char byte;
			while (step->silent && read(fd, &byte, 1) > 0)
				;
			if (step->reply)
				(void)!send(fd, step->reply, strlen(step->reply), MSG_NOSIGNAL);
			if (step->hang_up || step->silent)
				break;
		}
		close(fd);
	}
	return NULL;
}

static inline void canned_start(
	struct canned_server *c, const struct canned_step *step, unsigned count)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	memset(c, 0, sizeof(*c));
	CHECK(count <= CANNED_MAX);
	c->step = step;
	c->step_count = count;
	c->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(c->listener >= 0 && bind(c->listener, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(listen(c->listener, 8) == 0 &&
		getsockname(c->listener, (struct sockaddr *)&a, &len) == 0);
	c->port = ntohs(a.sin_port);
	snprintf(c->origin, sizeof(c->origin), "http://127.0.0.1:%u", c->port);
	CHECK(pthread_create(&c->thread, NULL, canned_run, c) == 0);
}

/* After the client has closed its connections. */
static inline void canned_stop(struct canned_server *c)
{
	shutdown(c->listener, SHUT_RDWR);
	pthread_join(c->thread, NULL);
	close(c->listener);
}

#endif
