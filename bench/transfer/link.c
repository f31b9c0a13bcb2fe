/*
 * A bad network line between two interfaces: limited rate, a delay, random loss, a queue that drops at its end. It stands in
 * for the kernel's netem where that is not built in. Both interfaces are in this process's network namespace.
 *
 *   link IFACE IFACE MBIT DELAY_MS LOSS_PERCENT QUEUE_KIB      runs until killed
 *   link plain IFACE                                           turns the interface's offloads off: packets as on a wire
 *
 * Build: cc -O2 -o link link.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_PACKET 2048
#define RING 16384

struct packet {
	int64_t due; /* when it leaves the line, in ns */
	uint16_t length;
	unsigned char bytes[MAX_PACKET];
};

/* One direction: what comes in at one interface leaves at the other. */
struct way {
	int in, out;
	int64_t line_free; /* when the last bit of what is queued has been sent */
	unsigned head, tail;
	struct packet *ring;
};

static double ns_per_byte, loss;
static int64_t delay_ns, queue_bytes;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_interface(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
	if (fd < 0) die("socket");
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	address.sll_ifindex = (int)if_nametoindex(name);
	if (address.sll_ifindex == 0) die(name);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
	struct packet_mreq all = { .mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC };
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) < 0) die("promiscuous");
	int size = 16 << 20;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	int on = 1;
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
	return fd;
}

/* Takes in what has arrived, as far as the line has room for it. */
static void take(struct way *way)
{
	for (;;) {
		struct packet *packet = &way->ring[way->head % RING];
		ssize_t length = recv(way->in, packet->bytes, MAX_PACKET, MSG_TRUNC);
		if (length < 0) return;
		int64_t now = now_ns();
		if (length > MAX_PACKET || way->head - way->tail >= RING - 1) continue;
		if (drand48() < loss) continue;
		int64_t start = way->line_free > now ? way->line_free : now;
		if ((double)(start - now) / ns_per_byte > (double)queue_bytes) continue;
		way->line_free = start + (int64_t)((double)length * ns_per_byte);
		packet->due = way->line_free + delay_ns;
		packet->length = (uint16_t)length;
		way->head++;
	}
}

/* Hands on what is due, and tells when the next is. */
static int64_t give(struct way *way)
{
	while (way->tail != way->head) {
		struct packet *packet = &way->ring[way->tail % RING];
		if (packet->due > now_ns()) return packet->due;
		if (send(way->out, packet->bytes, packet->length, 0) < 0) { /* as on a line, a packet that can't be sent is lost */ }
		way->tail++;
	}
	return INT64_MAX;
}

static void turn_off(int fd, const char *name, uint32_t command)
{
	struct ethtool_value value = { .cmd = command, .data = 0 };
	struct ifreq request;
	memset(&request, 0, sizeof request);
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	request.ifr_data = (void *)&value;
	if (ioctl(fd, SIOCETHTOOL, &request) < 0) perror(name);
}

static int plain(const char *name)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0) die("socket");
	turn_off(fd, name, ETHTOOL_STSO);
	turn_off(fd, name, ETHTOOL_SGSO);
	turn_off(fd, name, ETHTOOL_SGRO);
	turn_off(fd, name, ETHTOOL_STXCSUM);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "plain") == 0) return plain(argv[2]);
	if (argc != 7) {
		fprintf(stderr, "usage: link IFACE IFACE MBIT DELAY_MS LOSS_PERCENT QUEUE_KIB\n");
		return 2;
	}
	ns_per_byte = 8000.0 / atof(argv[3]);
	delay_ns = (int64_t)(atof(argv[4]) * 1e6);
	loss = atof(argv[5]) / 100;
	queue_bytes = atoll(argv[6]) * 1024;
	srand48(now_ns());
	/* Before other work: a line does not wait for a processor. Without the privilege it runs all the same. */
	struct sched_param first = { .sched_priority = 10 };
	if (sched_setscheduler(0, SCHED_FIFO, &first) < 0) perror("sched_setscheduler");

	int a = open_interface(argv[1]), b = open_interface(argv[2]);
	struct way ways[2] = { { .in = a, .out = b }, { .in = b, .out = a } };
	for (int i = 0; i < 2; i++) {
		ways[i].ring = calloc(RING, sizeof(struct packet));
		if (ways[i].ring == NULL) die("calloc");
	}
	for (;;) {
		int64_t next = INT64_MAX;
		for (int i = 0; i < 2; i++) {
			take(&ways[i]);
			int64_t due = give(&ways[i]);
			if (due < next) next = due;
		}
		struct pollfd poll[2] = { { .fd = a, .events = POLLIN }, { .fd = b, .events = POLLIN } };
		int64_t wait = next == INT64_MAX ? 100000000 : next - now_ns();
		if (wait < 100000) wait = 100000; /* a tenth of a millisecond: bursts of two packets */
		struct timespec pause = { .tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000 };
		ppoll(poll, 2, &pause, NULL);
	}
}
