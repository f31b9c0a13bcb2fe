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

struct cgroup {
  uint32_t id;
  int fd; /* its folder */
};

/* Empty ones, used again: making and removing a cgroup costs more than all else that starting a command needs. */
enum { MAX_SPARE = 32 };
static struct cgroup spare[MAX_SPARE];
static size_t spare_count;

/* Those of commands that are over but left something running. */
static struct cgroup *lingering;
static size_t lingering_count, lingering_size;
static bool sweep_wanted;

static uint32_t next_id(void) {
  if (++last_id == 0) ++last_id;
  return last_id;
}

static int make(uint32_t id) {
  char name[32];
  snprintf(name, sizeof name, "c%u", id);
  if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST) return -1;
  return openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void tree_start(const char *root) {
  if (!root) return;
  mkdir(root, 0755);
  root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int fd = root_fd < 0 ? -1 : make(next_id());
  if (fd >= 0) {
    spare[spare_count++] = (struct cgroup){last_id, fd};
    return;
  }
  say("no cgroup2 at %s (errno %d): commands are followed through /proc", root, errno);
  if (root_fd >= 0) close(root_fd);
  root_fd = -1;
}

struct tree tree_new(void) {
  struct tree tree = {.id = next_id(), .cgroup = -1};
  if (root_fd < 0) return tree;
  if (spare_count > 0) {
    struct cgroup reused = spare[--spare_count];
    return (struct tree){.id = reused.id, .cgroup = reused.fd};
  }
  tree.cgroup = make(tree.id);
  return tree;
}

/* Linux 4.5 to 5.13: one by one, until nobody is left to fork. */
static void kill_members(int cgroup) {
  for (int round = 0; round < 100; round++) {
    int fd = openat(cgroup, "cgroup.procs", O_RDONLY | O_CLOEXEC);
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

void tree_kill(const struct tree *tree, pid_t leader) {
  if (tree->cgroup < 0) {
    for (int round = 0; round < 20 && kill_found(tree->id, leader) > 0; round++) {
    }
    return;
  }
  int fd = openat(tree->cgroup, "cgroup.kill", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return kill_members(tree->cgroup);
  ssize_t ignored = write(fd, "1", 1); /* fails only when the folder is gone, and everything with it */
  (void)ignored;
  close(fd);
}

static bool is_empty(int cgroup) {
  char events[128];
  int fd = openat(cgroup, "cgroup.events", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true; /* removed by somebody */
  ssize_t n = read(fd, events, sizeof events - 1);
  close(fd);
  events[n > 0 ? n : 0] = 0;
  return strstr(events, "populated 0") != NULL;
}

static void retire(struct cgroup cgroup) {
  char name[32];
  if (spare_count < MAX_SPARE) {
    spare[spare_count++] = cgroup;
    return;
  }
  close(cgroup.fd);
  snprintf(name, sizeof name, "c%u", cgroup.id);
  unlinkat(root_fd, name, AT_REMOVEDIR);
}

/* The command is over; its cgroup stays as long as something that it left in the background runs. */
void tree_done(const struct tree *tree) {
  if (tree->cgroup < 0) return;
  if (lingering_count == lingering_size) {
    size_t size = lingering_size ? lingering_size * 2 : 64;
    struct cgroup *more = realloc(lingering, size * sizeof *more);
    if (!more) {
      close(tree->cgroup); /* the folder stays: it costs a few kilobytes of the machine's own memory */
      return;
    }
    lingering = more;
    lingering_size = size;
  }
  if (is_empty(tree->cgroup)) return retire((struct cgroup){tree->id, tree->cgroup});
  lingering[lingering_count++] = (struct cgroup){tree->id, tree->cgroup};
}

/* After something has ended. */
void trees_changed(void) { sweep_wanted = true; }

void trees_sweep(void) {
  if (!sweep_wanted) return;
  sweep_wanted = false;
  /* A few at a time: a machine with hundreds of background services must not pay for all of them at each exit. */
  static size_t next;
  for (size_t looks = 0; looks < 8 && looks < lingering_count; looks++) {
    if (next >= lingering_count) next = 0;
    if (is_empty(lingering[next].fd)) {
      retire(lingering[next]);
      lingering[next] = lingering[--lingering_count];
    } else {
      next++;
    }
  }
}
