#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

bool configured;

static int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) return -1;
  size_t length = strlen(text);
  ssize_t n = write(fd, text, length);
  close(fd);
  return n == (ssize_t)length ? 0 : -1;
}

/* RNDADDENTROPY alone waits for the next reseed: two clones of one memory image would draw the same numbers until then. */
static int seed(const uint8_t *bytes, uint32_t length) {
  if (length == 0) return 0;
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  struct rand_pool_info *pool = malloc(sizeof *pool + length);
  int error = 0;
  if (!pool) {
    error = ENOMEM;
  } else {
    pool->entropy_count = (int)(length * 8);
    pool->buf_size = (int)length;
    memcpy(pool->buf, bytes, length);
    if (ioctl(fd, RNDADDENTROPY, pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0) error = errno;
  }
  free(pool);
  close(fd);
  return error;
}

static int set_clock(uint64_t milliseconds) {
  struct timespec t = {.tv_sec = (time_t)(milliseconds / 1000), .tv_nsec = (long)(milliseconds % 1000) * 1000000};
  return clock_settime(CLOCK_REALTIME, &t) < 0 ? errno : 0;
}

/* What somebody wrote into /etc/hosts stays: only the machine's own name is added where it is missing. */
static void name_in_hosts(const char *hostname) {
  static char text[64 * 1024];
  int fd = open("/etc/hosts", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return;
  ssize_t n = read(fd, text, sizeof text - 1);
  text[n > 0 ? n : 0] = 0;
  size_t length = strlen(hostname);
  bool found = false;
  for (const char *at = text; !found && (at = strstr(at, hostname)); at += length) {
    found = at > text && strchr(" \t", at[-1]) && (!at[length] || strchr(" \t\n", at[length]));
  }
  if (!found) {
    if (n <= 0) dprintf(fd, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    dprintf(fd, "%s127.0.1.1\t%s\n", n > 0 && text[n - 1] != '\n' ? "\n" : "", hostname);
  }
  close(fd);
}

/* A read-only image keeps its own files: nothing in the machine depends on these. */
static void write_identity(const char *hostname, const char *machine_id) {
  char text[128];
  snprintf(text, sizeof text, "%s\n", hostname);
  write_file("/etc/hostname", text);
  name_in_hosts(hostname);
  if (!*machine_id) return;
  snprintf(text, sizeof text, "%s\n", machine_id);
  write_file("/etc/machine-id", text);
}

static int mount_extra(const char *source, const char *target, const char *type, bool read_only) {
  make_folders(target);
  return mount(source, target, type, read_only ? MS_RDONLY : 0, NULL) < 0 ? errno : 0;
}

int machine_configure(struct reader *r, const char **stage) {
  const char *hostname = get_string(r), *machine_id = get_string(r);
  uint64_t clock = get_u64(r);
  uint32_t length;
  const uint8_t *entropy = get_bytes(r, &length);
  const char *address = get_string(r);
  int prefix = get_u8(r);
  const char *gateway = get_string(r), *dns = get_string(r);
  if (r->bad) return 0;
  int error = 0;
  *stage = "entropy";
  if (is_init && (error = seed(entropy, length))) return error;
  *stage = "clock";
  if (is_init && clock && (error = set_clock(clock))) return error;
  *stage = "hostname";
  if (is_init && *hostname) {
    if (sethostname(hostname, strlen(hostname)) < 0) return errno;
    write_identity(hostname, machine_id);
  }
  *stage = "network";
  if (is_init && (error = network_up(address, prefix, gateway, dns))) return error;
  if (!environment_set(r)) {
    r->bad = true;
    return 0;
  }
  uint32_t mounts = get_u32(r);
  for (uint32_t i = 0; i < mounts && !r->bad; i++) {
    const char *source = get_string(r), *target = get_string(r), *type = get_string(r);
    bool read_only = get_u8(r);
    *stage = target;
    if (!r->bad && is_init && (error = mount_extra(source, target, type, read_only))) return error;
  }
  if (!r->bad) configured = true;
  return 0;
}
