#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

struct task *tasks;
static unsigned task_count;

static void on_sink(struct watch *watch, uint32_t events) {
  (void)events;
  ((struct sink *)watch)->writable = true;
}

static void on_source(struct watch *watch, uint32_t events) {
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) ((struct source *)watch)->readable = true;
  struct task *task = ((struct source *)watch)->task;
  /* A terminal has one descriptor for both ways. */
  if (task->tty && (events & EPOLLOUT)) task->in.writable = true;
}

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

void task_open_in(struct task *task, int fd, uint32_t window) {
  struct sink *in = &task->in;
  in->task = task;
  in->fd = fd;
  in->window = window;
  in->writable = true;
  in->watch.on_event = on_sink;
  if (!task->tty) loop_add(fd, EPOLLOUT, &in->watch);
}

void task_open_out(struct task *task, int index, int fd, uint32_t credit) {
  struct source *out = &task->out[index];
  out->task = task;
  out->fd = fd;
  out->stream = (uint8_t)(index + 1);
  out->credit = credit;
  out->readable = true;
  out->watch.on_event = on_source;
  loop_add(fd, task->tty ? EPOLLIN | EPOLLOUT : EPOLLIN, &out->watch);
}

static void close_in(struct task *task) {
  if (task->in.fd >= 0 && !task->tty) loop_close(task->in.fd);
  task->in.fd = -1;
  free(task->in.buffer);
  task->in.buffer = NULL;
  task->in.head = task->in.tail = 0;
}

static void close_out(struct source *out) {
  loop_close(out->fd);
  out->fd = -1;
  if (out->task && out->task->tty) out->task->in.fd = -1;
}

/* Detaches it from its lane; the memory goes at the next pump, as an event may still point here. */
void task_drop(struct task *task) {
  lane_forget_task(task);
  task->lane = NULL;
  close_in(task);
  close_out(&task->out[0]);
  close_out(&task->out[1]);
  if (task->pid <= 0) task->over = true;
}

bool task_charge(struct task *task, uint32_t cost) {
  if (task->in.window < cost) return false;
  task->in.window -= cost;
  task->in.owed += FRAME_COST; /* the frame's own cost comes back at once, that of its bytes when they have left */
  return true;
}

static uint32_t window_of(const struct task *task) { return task->kind == TASK_JOB ? JOB_WINDOW : STDIN_WINDOW; }

static void give_back(struct sink *in, size_t bytes) { in->owed += (uint32_t)bytes; }

static bool sink_flush(struct sink *in) {
  bool moved = false;
  while (in->fd >= 0 && in->writable && in->head < in->tail) {
    ssize_t n = write(in->fd, in->buffer + in->head, in->tail - in->head);
    if (n > 0) {
      in->head += (size_t)n;
      give_back(in, (size_t)n);
      moved = true;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      in->writable = false;
    } else {
      /* The process closed its end: what it does not want is not its sender's trouble. */
      give_back(in, in->tail - in->head);
      close_in(in->task);
      return true;
    }
  }
  if (in->buffer && in->head == in->tail) {
    free(in->buffer);
    in->buffer = NULL;
    in->head = in->tail = 0;
  }
  return moved;
}

void task_deliver(struct task *task, const uint8_t *bytes, size_t length) {
  struct sink *in = &task->in;
  if (length > 0) in->line_open = bytes[length - 1] != '\n' && bytes[length - 1] != '\r';
  while (length > 0 && in->fd >= 0 && !in->end && in->writable && in->head == in->tail) {
    ssize_t n = write(in->fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) in->writable = false;
    if (n < 0 && errno != EAGAIN) close_in(task);
    if (n <= 0) break;
    give_back(in, (size_t)n);
    bytes += n;
    length -= (size_t)n;
  }
  if (length == 0) return;
  if (in->fd < 0 || in->end) return give_back(in, length);
  /* Credits bound what is here, so a buffer of the window's size always has room once its front is moved away. */
  size_t size = window_of(task);
  if (!in->buffer) in->buffer = malloc(size);
  if (!in->buffer || in->tail - in->head + length > size) {
    lane_fail(task->lane, task->channel, ENOMEM, "input");
    return task_abandon(task);
  }
  if (in->tail + length > size) {
    memmove(in->buffer, in->buffer + in->head, in->tail - in->head);
    in->tail -= in->head;
    in->head = 0;
  }
  memcpy(in->buffer + in->tail, bytes, length);
  in->tail += length;
}

void task_end(struct task *task, uint8_t stream) {
  if (stream == 0) {
    task->in.end = true;
  } else if (stream <= 2 && !task->tty) {
    close_out(&task->out[stream - 1]); /* the process gets SIGPIPE when it writes on, as in a shell's pipe */
  }
}

void task_credit(struct task *task, uint8_t stream, uint32_t amount) {
  if (stream < 1 || stream > 2) return;
  struct source *out = &task->out[stream - 1];
  out->credit = out->credit > UINT32_MAX - amount ? UINT32_MAX : out->credit + amount;
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
  close_in(task);
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

static bool source_ready(const struct source *out) {
  if (out->fd < 0 || !out->readable) return false;
  const struct lane *lane = out->task->lane;
  return !lane || (out->credit > FRAME_COST && lane_room(lane) >= HEADER_SIZE + 4096);
}

static bool source_pump(struct source *out) {
  if (!source_ready(out)) return false;
  struct task *task = out->task;
  struct lane *lane = task->lane;
  static uint8_t discarded[64 * 1024];
  size_t want = sizeof discarded;
  uint8_t *at = discarded;
  if (lane) {
    want = lane_room(lane) - HEADER_SIZE;
    if (want > DATA_PAYLOAD) want = DATA_PAYLOAD;
    if (want > out->credit - FRAME_COST) want = out->credit - FRAME_COST;
    at = lane_reserve(lane, want);
  }
  ssize_t n;
  do {
    n = read(out->fd, at, want);
  } while (n < 0 && errno == EINTR);
  if (n > 0) {
    if (lane) {
      lane_commit(lane, task->channel, FRAME_DATA, out->stream, (size_t)n);
      out->credit -= (uint32_t)n + FRAME_COST;
      out->due -= (size_t)n < out->due ? (size_t)n : out->due;
    }
    return true;
  }
  if (n < 0 && errno == EAGAIN) {
    out->readable = false;
    out->due = 0; /* whatever was counted, nothing is left */
    return false;
  }
  close_out(out); /* the end, or EIO of a terminal that nobody holds any more */
  if (lane) lane_send(lane, task->channel, FRAME_END, out->stream, NULL, 0);
  return true;
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

static bool pay_back(struct task *task) {
  struct sink *in = &task->in;
  if (!task->lane || in->owed < window_of(task) / 4 || lane_room(task->lane) < 256) return false;
  uint8_t payload[4];
  struct writer w = {.at = payload, .end = payload + sizeof payload};
  put_u32(&w, in->owed);
  lane_send(task->lane, task->channel, FRAME_CREDIT, 0, payload, sizeof payload);
  in->window += in->owed;
  in->owed = 0;
  return true;
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
  bool moved = sink_flush(&task->in);
  if (task->in.end && task->in.fd >= 0 && task->in.head == task->in.tail) {
    task->in.end = false;
    if (task->tty) {
      /* What a person types to end the input: control-D; behind an unfinished line twice, as the first only sends the line. */
      size_t length = task->in.line_open ? 2 : 1;
      task_deliver(task, (const uint8_t[]){4, 4}, length);
      task->in.owed -= task->in.owed < length ? task->in.owed : (uint32_t)length; /* the host never paid for these */
    } else {
      close_in(task);
    }
    moved = true;
  }
  if (pay_back(task)) moved = true;
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
  return task->over || source_ready(&task->out[0]) || source_ready(&task->out[1]) || finished(task) ||
         (task->in.fd >= 0 && task->in.writable && task->in.head < task->in.tail);
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
