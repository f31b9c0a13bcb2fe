#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

enum { FLAG_TTY = 1, FLAG_STDIN = 2, MAX_ENVIRONMENT = 4096, PIPE_SIZE = 256 * 1024 };

/* What configure set for all later commands: one allocation with the strings behind the pointers. */
static char **machine_environment;
static uint32_t machine_environment_count;

bool environment_set(struct reader *r) {
  uint32_t count = get_u32(r);
  if (count > MAX_ENVIRONMENT) return false;
  size_t bytes = (size_t)(r->end - r->at) + count * sizeof(char *);
  char **list = malloc(bytes + 1);
  if (!list) return false;
  char *text = (char *)(list + count);
  for (uint32_t i = 0; i < count; i++) {
    const char *entry = get_string(r);
    size_t length = strlen(entry) + 1;
    if (r->bad || !strchr(entry, '=')) {
      free(list);
      return false;
    }
    list[i] = memcpy(text, entry, length);
    text += length;
  }
  free(machine_environment);
  machine_environment = list;
  machine_environment_count = count;
  return true;
}

struct environment {
  const char *entries[2 * MAX_ENVIRONMENT + 16];
  size_t count;
};

/* A later entry of the same name takes the place of an earlier one. */
static void set(struct environment *environment, const char *entry) {
  size_t name = strcspn(entry, "=") + 1;
  for (size_t i = 0; i < environment->count; i++) {
    if (strncmp(environment->entries[i], entry, name) == 0) {
      environment->entries[i] = entry;
      return;
    }
  }
  environment->entries[environment->count++] = entry;
}

static const char *value_of(const struct environment *environment, const char *name, const char *otherwise) {
  size_t length = strlen(name);
  for (size_t i = 0; i < environment->count; i++) {
    const char *entry = environment->entries[i];
    if (strncmp(entry, name, length) == 0 && entry[length] == '=') return entry + length + 1;
  }
  return otherwise;
}

#define SEARCH_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct request {
  bool tty, input;
  uint32_t credit[2];
  uint16_t cols, rows;
  const char *user, *cwd;
  uint32_t argc;
  const char **argv;
  struct environment *environment;
  char base[5][320]; /* entries that the user's account gives */
};

static void base_environment(struct request *q, const struct user *user, const struct tree *tree) {
  struct environment *e = q->environment;
  set(e, "PATH=" SEARCH_PATH);
  snprintf(q->base[0], sizeof q->base[0], "HOME=%s", user->home);
  snprintf(q->base[1], sizeof q->base[1], "USER=%s", user->name);
  snprintf(q->base[2], sizeof q->base[2], "LOGNAME=%s", user->name);
  snprintf(q->base[3], sizeof q->base[3], "SHELL=%s", user->shell[0] ? user->shell : "/bin/sh");
  for (int i = 0; i < 4; i++) {
    if (user->name[0] || i == 0 || i == 3) set(e, q->base[i]);
  }
  if (q->tty) set(e, "TERM=xterm-256color");
  if (tree->cgroup < 0) {
    snprintf(q->base[4], sizeof q->base[4], "SMOLVM_TREE=%u", tree->id);
    set(e, q->base[4]);
  }
  for (uint32_t i = 0; i < machine_environment_count; i++) set(e, machine_environment[i]);
}

static bool parse(struct request *q, struct reader *r) {
  uint8_t flags = get_u8(r);
  q->tty = flags & FLAG_TTY;
  q->input = flags & (FLAG_STDIN | FLAG_TTY);
  q->credit[0] = get_u32(r);
  q->credit[1] = get_u32(r);
  q->cols = get_u16(r);
  q->rows = get_u16(r);
  q->user = get_string(r);
  q->cwd = get_string(r);
  q->argc = get_u32(r);
  if (r->bad || q->argc == 0 || q->argc > MAX_PAYLOAD / 5) return false;
  q->argv = malloc((q->argc + 1) * sizeof *q->argv);
  if (!q->argv) return false;
  for (uint32_t i = 0; i < q->argc; i++) q->argv[i] = get_string(r);
  q->argv[q->argc] = NULL;
  return !r->bad;
}

static bool parse_environment(struct request *q, struct reader *r) {
  uint32_t count = get_u32(r);
  if (r->bad || count > MAX_ENVIRONMENT) return false;
  for (uint32_t i = 0; i < count; i++) {
    const char *entry = get_string(r);
    if (r->bad || !strchr(entry, '=')) return false;
    set(q->environment, entry);
  }
  q->environment->entries[q->environment->count] = NULL;
  return true;
}

/* The command's ends (0 to 2) and the agent's (3: input, 4 and 5: output). */
struct ends {
  int fd[6];
};

static void close_ends(struct ends *ends, int from, int to) {
  for (int i = from; i <= to; i++) {
    if (ends->fd[i] >= 0) close(ends->fd[i]);
    ends->fd[i] = -1;
  }
}

static int open_terminal(struct ends *ends, const struct request *q, const struct user *user) {
  int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (master < 0) return -1;
  char path[32];
  unsigned number;
  int unlock = 0;
  ends->fd[4] = master;
  if (ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCGPTN, &number) < 0) return -1;
  snprintf(path, sizeof path, "/dev/pts/%u", number);
  ends->fd[0] = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (ends->fd[0] < 0) return -1;
  struct winsize size = {.ws_col = q->cols, .ws_row = q->rows};
  ioctl(master, TIOCSWINSZ, &size);
  /* The user may open it by name too, as after a login. An agent without privileges is that user already. */
  return fchown(ends->fd[0], user->uid, (gid_t)-1) < 0 && geteuid() == 0 ? -1 : 0;
}

static int open_pipes(struct ends *ends, const struct request *q) {
  int pair[2];
  if (q->input) {
    if (pipe2(pair, O_CLOEXEC) < 0) return -1;
    ends->fd[0] = pair[0], ends->fd[3] = pair[1];
  } else if ((ends->fd[0] = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) {
    return -1;
  }
  for (int i = 1; i < 3; i++) {
    if (pipe2(pair, O_CLOEXEC) < 0) return -1;
    ends->fd[i] = pair[1], ends->fd[i + 3] = pair[0];
  }
  /* Fewer, larger reads and writes of bulk data; refused only by a limit. */
  fcntl(ends->fd[4], F_SETPIPE_SZ, PIPE_SIZE);
  if (q->input) fcntl(ends->fd[3], F_SETPIPE_SZ, PIPE_SIZE);
  for (int i = 3; i < 6; i++) {
    if (ends->fd[i] >= 0) fcntl(ends->fd[i], F_SETFL, O_NONBLOCK);
  }
  return 0;
}

static void start(struct lane *lane, uint32_t channel, struct request *q, struct reader *r) {
  struct user user;
  int error = user_resolve(q->user, &user);
  if (error) return lane_fail(lane, channel, error, "user");
  struct task *task = task_new(lane, channel, TASK_COMMAND);
  if (!task) return lane_fail(lane, channel, EAGAIN, "task");
  struct ends ends = {{-1, -1, -1, -1, -1, -1}};
  task->tree = tree_new();
  task->tty = q->tty;
  base_environment(q, &user, &task->tree);
  struct spawn s = {.argv = q->argv, .user = &user, .tty = q->tty, .cgroup = task->tree.cgroup, .cwd = *q->cwd ? q->cwd : NULL};
  if (!parse_environment(q, r)) {
    r->bad = true;
  } else if ((q->tty ? open_terminal(&ends, q, &user) : open_pipes(&ends, q)) < 0) {
    s.error = errno;
    s.stage = q->tty ? "terminal" : "pipe";
  } else {
    for (int i = 0; i < 3; i++) s.fds[i] = ends.fd[q->tty ? 0 : i];
    s.envp = q->environment->entries;
    s.path = value_of(q->environment, "PATH", SEARCH_PATH);
    task->pid = spawn(&s);
  }
  close_ends(&ends, 0, 2);
  if (task->pid <= 0) {
    close_ends(&ends, 3, 5);
    task_drop(task);
    if (!r->bad) lane_fail(lane, channel, s.error, s.stage);
    return;
  }
  uint32_t window = q->input ? STDIN_WINDOW : 0;
  if (q->tty) {
    sink_open(task, ends.fd[4], window);
    source_open(task, 0, ends.fd[4], q->credit[0]);
  } else {
    if (q->input) sink_open(task, ends.fd[3], window);
    source_open(task, 0, ends.fd[4], q->credit[0]);
    source_open(task, 1, ends.fd[5], q->credit[1]);
  }
  uint8_t payload[8];
  struct writer w = {.at = payload, .end = payload + sizeof payload};
  put_u32(&w, (uint32_t)task->pid);
  put_u32(&w, window);
  /* With the input's window it says what may be sent; without one it only tells the pid. */
  (q->input ? lane_send : lane_send_patient)(lane, channel, FRAME_STARTED, 0, payload, sizeof payload);
}

void exec_command(struct lane *lane, uint32_t channel, struct reader *r) {
  static struct environment environment;
  static struct request request;
  request = (struct request){.environment = &environment};
  environment.count = 0;
  if (parse(&request, r)) {
    start(lane, channel, &request, r);
  } else {
    r->bad = true;
  }
  free(request.argv);
}
