#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

/*
 * A tree is everything that one command started. Where the kernel has cgroup v2, each command runs in a cgroup of its own:
 * nothing leaves it by setsid or a double fork, and cgroup.kill (Linux 5.14) ends it in one write. Elsewhere the tree is
 * found by walking /proc: descendants, the command's session, and a marker in the environment.
 */

static int root_fd = -1;
static uint32_t last_id;
static uint32_t spare; /* made ahead, so that starting a command need not wait for it */
static uint32_t *lingering;
static size_t lingering_count, lingering_size;
static bool sweep_wanted;

static const char *name_of(uint32_t tree, char *buffer, size_t size, const char *file) {
  snprintf(buffer, size, "c%u%s", tree, file);
  return buffer;
}

static uint32_t make(void) {
  char name[32];
  uint32_t id = ++last_id ? last_id : ++last_id;
  return mkdirat(root_fd, name_of(id, name, sizeof name, ""), 0755) == 0 || errno == EEXIST ? id : 0;
}

void tree_start(const char *root) {
  if (!root) return;
  mkdir(root, 0755);
  root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root_fd >= 0 && !(spare = make())) {
    close(root_fd);
    root_fd = -1;
  }
  if (root_fd < 0) say("no cgroup2 at %s (errno %d): commands are followed through /proc", root, errno);
}

uint32_t tree_new(int *cgroup) {
  *cgroup = -1;
  if (root_fd >= 0) {
    uint32_t id = spare ? spare : make();
    spare = 0;
    char name[32];
    if (id) *cgroup = openat(root_fd, name_of(id, name, sizeof name, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*cgroup >= 0) return id;
  }
  return ++last_id ? last_id : ++last_id;
}

/* Linux 4.5 to 5.13: one by one, until nobody is left to fork. */
static void kill_members(uint32_t tree) {
  char name[48];
  for (int round = 0; round < 100; round++) {
    int fd = openat(root_fd, name_of(tree, name, sizeof name, "/cgroup.procs"), O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (!file) {
      if (fd >= 0) close(fd);
      return;
    }
    int pid, count = 0;
    while (fscanf(file, "%d", &pid) == 1) {
      if (pid > 1 && kill(pid, SIGKILL) == 0) count++;
    }
    fclose(file);
    if (count == 0) return;
  }
}

struct entry {
  pid_t pid, parent, session;
  bool marked, member;
};

static bool has_marker(pid_t pid, uint32_t tree) {
  char path[64], marker[48], environment[16384];
  snprintf(path, sizeof path, "/proc/%d/environ", pid);
  int length = snprintf(marker, sizeof marker, "SMOLVM_TREE=%u", tree) + 1;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, environment, sizeof environment);
  close(fd);
  return n >= length && memmem(environment, (size_t)n, marker, (size_t)length) != NULL;
}

static bool read_entry(const char *digits, uint32_t tree, struct entry *entry) {
  char path[64], line[512], state;
  snprintf(path, sizeof path, "/proc/%.20s/stat", digits);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, line, sizeof line - 1);
  close(fd);
  if (n <= 0) return false;
  line[n] = 0;
  const char *after = strrchr(line, ')'); /* the name before it may hold anything */
  int parent, group, session;
  if (!after || sscanf(after + 1, " %c %d %d %d", &state, &parent, &group, &session) != 4) return false;
  if (state == 'Z') return false;
  *entry = (struct entry){.pid = atoi(digits), .parent = parent, .session = session};
  entry->marked = has_marker(entry->pid, tree);
  return true;
}

/* One look at all processes; kills those of the tree and gives their number. */
static int kill_found(uint32_t tree, pid_t leader) {
  DIR *proc = opendir("/proc");
  if (!proc) return 0;
  struct entry *entries = NULL;
  size_t count = 0, size = 0;
  for (struct dirent *dirent; (dirent = readdir(proc));) {
    if (!isdigit((unsigned char)dirent->d_name[0])) continue;
    if (count == size) {
      struct entry *more = realloc(entries, (size = size ? size * 2 : 256) * sizeof *entries);
      if (!more) break;
      entries = more;
    }
    if (read_entry(dirent->d_name, tree, &entries[count])) count++;
  }
  closedir(proc);
  int killed = 0;
  for (bool grew = true; grew;) {
    grew = false;
    for (size_t i = 0; i < count; i++) {
      struct entry *e = &entries[i];
      if (e->member || e->pid <= 1 || e->pid == getpid()) continue;
      bool of_leader = leader > 0 && (e->pid == leader || e->session == leader);
      bool of_member = false;
      for (size_t j = 0; j < count && !of_member; j++) of_member = entries[j].member && entries[j].pid == e->parent;
      if (!e->marked && !of_leader && !of_member) continue;
      e->member = grew = true;
      if (kill(e->pid, SIGKILL) == 0) killed++;
    }
  }
  free(entries);
  return killed;
}

void tree_kill(uint32_t tree, pid_t leader) {
  char name[48];
  if (root_fd < 0) {
    for (int round = 0; round < 20 && kill_found(tree, leader) > 0; round++) {
    }
    return;
  }
  int fd = openat(root_fd, name_of(tree, name, sizeof name, "/cgroup.kill"), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return kill_members(tree);
  ssize_t ignored = write(fd, "1", 1); /* fails only when the folder is gone, and everything with it */
  (void)ignored;
  close(fd);
}

static bool removed(uint32_t tree) {
  char name[32];
  return unlinkat(root_fd, name_of(tree, name, sizeof name, ""), AT_REMOVEDIR) == 0 || errno != EBUSY;
}

/* The command is over; its cgroup stays as long as something that it left in the background runs. */
void tree_done(uint32_t tree) {
  sweep_wanted = true;
  if (root_fd < 0 || removed(tree)) return;
  if (lingering_count == lingering_size) {
    uint32_t *more = realloc(lingering, (lingering_size ? lingering_size * 2 : 16) * sizeof *lingering);
    if (!more) return; /* the empty folder stays: it costs a few kilobytes of the machine's own memory */
    lingering = more;
    lingering_size = lingering_size ? lingering_size * 2 : 16;
  }
  lingering[lingering_count++] = tree;
}

void trees_sweep(void) {
  if (!sweep_wanted || root_fd < 0) return;
  sweep_wanted = false;
  for (size_t i = 0; i < lingering_count;) {
    if (removed(lingering[i])) {
      lingering[i] = lingering[--lingering_count];
    } else {
      i++;
    }
  }
  if (!spare) spare = make();
}
