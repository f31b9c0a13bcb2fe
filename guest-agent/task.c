#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

struct task *tasks;
static unsigned task_count;

struct task *task_new(struct lane *lane, uint32_t channel, enum task_kind kind) {
  if (task_count >= MAX_TASKS) return NULL;
  struct task *task = calloc(1, sizeof *task);
  if (!task) return NULL;
  task->lane = lane;
  task->channel = channel;
  task->kind = kind;
  task->tree.cgroup = -1;
  task->in.fd = task->out[0].fd = task->out[1].fd = -1;
  task->next = tasks;
  tasks = task;
  task_count++;
  return task;
}

struct task *task_find(const struct lane *lane, uint32_t channel) {
  for (struct task *task = tasks; task; task = task->next) {
    if (task->lane == lane && task->channel == channel) return task;
  }
  return NULL;
}

/* Detaches it from its lane; the memory goes at the next pump, as an event may still point here. */
void task_drop(struct task *task) {
  lane_forget_task(task);
  task->lane = NULL;
  sink_close(task);
  source_close(&task->out[0]);
  source_close(&task->out[1]);
  if (task->pid <= 0) task->over = true;
}

void task_end(struct task *task, uint8_t stream) {
  if (stream == 0) {
    task->in.end = true;
  } else if (stream <= 2 && !task->tty) {
    source_close(&task->out[stream - 1]); /* the process gets SIGPIPE when it writes on, as in a shell's pipe */
  }
}

void task_signal(struct task *task, int signal, bool whole_tree) {
  if (task->kind != TASK_COMMAND) return;
  if (whole_tree) {
    tree_kill(&task->tree, task->exited ? 0 : task->pid);
  } else if (!task->exited && signal > 0 && signal < NSIG) {
    kill(-task->pid, signal);
  }
}

void task_resize(struct task *task, uint16_t cols, uint16_t rows) {
  struct winsize size = {.ws_col = cols, .ws_row = rows};
  if (task->tty && task->out[0].fd >= 0) ioctl(task->out[0].fd, TIOCSWINSZ, &size);
}

void task_abandon(struct task *task) {
  /* First kill, then close: a file writer must not take the closed pipe for the end of the file. */
  if (task->kind == TASK_COMMAND) {
    tree_kill(&task->tree, task->exited ? 0 : task->pid);
  } else if (!task->exited) {
    kill(task->pid, SIGKILL);
  }
  task_drop(task);
}

void tasks_abandon(struct lane *lane) {
  for (struct task *task = tasks; task; task = task->next) {
    if (task->lane == lane) task_abandon(task);
  }
}

static void note_exit(struct task *task, int status) {
  task->exited = true;
  task->status = status;
  task->exited_at = now_ms();
  sink_close(task);
  for (int i = 0; i < 2; i++) {
    int left = 0;
    struct source *out = &task->out[i];
    if (out->fd >= 0 && ioctl(out->fd, FIONREAD, &left) == 0 && left > 0) out->due = (size_t)left;
    out->readable = true;
  }
  if (task->scrap && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) unlink(task->scrap);
  if (!task->lane && task->out[0].fd < 0 && task->out[1].fd < 0) task->over = true;
}

void tasks_reap(void) {
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    trees_changed();
    for (struct task *task = tasks; task; task = task->next) {
      if (task->pid == pid && !task->exited) {
        note_exit(task, status);
        break;
      }
    }
  }
}

static bool grace_is_over(const struct task *task) { return now_ms() >= task->exited_at + DRAIN_GRACE_MS; }

static bool delivered(const struct task *task, const struct source *out) {
  if (out->fd < 0) return true;
  return task->kind == TASK_COMMAND && out->due == 0 && grace_is_over(task);
}

static bool finished(const struct task *task) {
  return task->exited && task->lane && delivered(task, &task->out[0]) && delivered(task, &task->out[1]) &&
         lane_room(task->lane) >= 256;
}

static void report(struct task *task) {
  int status = task->status;
  struct lane *lane = task->lane;
  if (task->kind == TASK_JOB) {
    int error = WIFEXITED(status) ? WEXITSTATUS(status) : ENOMEM; /* only the out-of-memory killer has a reason to */
    if (error == 0) {
      lane_send(lane, task->channel, FRAME_REPLY, 0, NULL, 0);
    } else {
      lane_fail(lane, task->channel, error, "");
    }
  } else {
    uint8_t payload[2] = {
        WIFEXITED(status) ? (uint8_t)WEXITSTATUS(status) : 0,
        WIFSIGNALED(status) ? (uint8_t)WTERMSIG(status) : 0,
    };
    lane_send(lane, task->channel, FRAME_EXIT, 0, payload, sizeof payload);
  }
  lane_forget_task(task);
  task->lane = NULL; /* what background processes still write is read and thrown away, so that they can go on */
  for (int i = 0; i < 2; i++) task->out[i].readable = true;
}

static void task_free(struct task *task) {
  for (struct task **at = &tasks; *at; at = &(*at)->next) {
    if (*at == task) {
      *at = task->next;
      break;
    }
  }
  lane_forget_task(task);
  if (task->kind == TASK_COMMAND) tree_done(&task->tree);
  free(task->in.buffer);
  free(task->scrap);
  free(task);
  task_count--;
}

bool task_pump(struct task *task) {
  if (task->over) {
    task_free(task);
    return true;
  }
  bool moved = sink_pump(task);
  for (int i = 0; i < 2; i++) {
    if (source_pump(&task->out[i])) moved = true;
  }
  if (finished(task)) {
    report(task);
    moved = true;
  }
  if (task->exited && !task->lane && task->out[0].fd < 0 && task->out[1].fd < 0) task->over = true;
  return moved || task->over;
}

/* The first becomes the last, so that each has its turn at being first: the lane's buffer is full after a few. */
void tasks_rotate(void) {
  struct task *first = tasks;
  if (!first || !first->next) return;
  struct task *last = first;
  while (last->next) last = last->next;
  tasks = first->next;
  last->next = first;
  first->next = NULL;
}

bool task_busy(const struct task *task) {
  return task->over || source_ready(&task->out[0]) || source_ready(&task->out[1]) || finished(task) || sink_busy(&task->in);
}

int tasks_timeout(void) {
  int64_t first = -1;
  for (const struct task *task = tasks; task; task = task->next) {
    if (!task->exited || !task->lane || task->kind != TASK_COMMAND) continue;
    int64_t left = task->exited_at + DRAIN_GRACE_MS - now_ms();
    if (left > 0 && (first < 0 || left < first)) first = left;
  }
  return first < 0 ? -1 : (int)first + 1;
}
