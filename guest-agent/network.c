#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

/* The classic ioctls: one address and one route need no netlink. */

static int set_flags(int fd, const char *name) {
  struct ifreq request = {0};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) return errno;
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? errno : 0;
}

static int set_address(int fd, const char *name, unsigned long what, struct in_addr address) {
  struct ifreq request = {0};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = address};
  memcpy(&request.ifr_addr, &in, sizeof in);
  return ioctl(fd, what, &request) < 0 ? errno : 0;
}

static int add_default_route(int fd, struct in_addr gateway) {
  struct sockaddr_in any = {.sin_family = AF_INET}, via = {.sin_family = AF_INET, .sin_addr = gateway};
  struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
  memcpy(&route.rt_dst, &any, sizeof any);
  memcpy(&route.rt_genmask, &any, sizeof any);
  memcpy(&route.rt_gateway, &via, sizeof via);
  return ioctl(fd, SIOCADDRT, &route) < 0 && errno != EEXIST ? errno : 0;
}

/* The machine's network card: the first interface that has a device behind it. */
static bool find_card(char *name, size_t size) {
  DIR *folder = opendir("/sys/class/net");
  bool found = false;
  for (struct dirent *entry; folder && !found && (entry = readdir(folder));) {
    char path[320];
    if (entry->d_name[0] == '.' || strlen(entry->d_name) >= size) continue;
    snprintf(path, sizeof path, "/sys/class/net/%s/device", entry->d_name);
    if (access(path, F_OK) < 0) continue;
    memcpy(name, entry->d_name, strlen(entry->d_name) + 1);
    found = true;
  }
  if (folder) closedir(folder);
  return found;
}

static void write_resolver(const char *dns) {
  char text[128];
  int length = snprintf(text, sizeof text, "nameserver %s\n", dns);
  int fd = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 && errno == ENOENT) {
    /* A link into a folder that a resolver service would make. */
    unlink("/etc/resolv.conf");
    fd = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  if (fd < 0) return; /* a read-only image keeps its own */
  ssize_t ignored = write(fd, text, (size_t)length);
  (void)ignored;
  close(fd);
}

int network_up(const char *address, int prefix, const char *gateway, const char *dns) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return *address ? errno : 0; /* a kernel without network */
  set_flags(fd, "lo");
  int error = 0;
  if (*address) {
    char card[IFNAMSIZ];
    struct in_addr ip, mask = {htonl(prefix > 0 ? ~0U << (32 - prefix) : 0)}, via;
    if (prefix > 32 || inet_pton(AF_INET, address, &ip) != 1) error = EINVAL;
    if (!error && !find_card(card, sizeof card)) error = ENODEV;
    if (!error) error = set_address(fd, card, SIOCSIFADDR, ip);
    if (!error) error = set_address(fd, card, SIOCSIFNETMASK, mask);
    if (!error) error = set_flags(fd, card);
    if (!error && *gateway) error = inet_pton(AF_INET, gateway, &via) == 1 ? add_default_route(fd, via) : EINVAL;
    if (!error && *dns) write_resolver(dns);
  }
  close(fd);
  return error;
}
