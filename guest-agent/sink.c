#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent.h"

/* Bytes from the host to a process: as far as its pipe takes them, the rest in a buffer that credit keeps small. */

static void on_sink(struct watch *watch, uint32_t events) {
  (void)events;
  ((struct sink *)watch)->writable = true;
}

void sink_open(struct task *task, int fd, uint32_t window) {
  struct sink *in = &task->in;
  in->task = task;
  in->fd = fd;
  in->window = window;
  in->writable = true;
  in->watch.on_event = on_sink;
  if (!task->tty) loop_add(fd, EPOLLOUT, &in->watch);
}

void sink_close(struct task *task) {
  if (task->in.fd >= 0 && !task->tty) loop_close(task->in.fd);
  task->in.fd = -1;
  free(task->in.buffer);
  task->in.buffer = NULL;
  task->in.head = task->in.tail = 0;
}

static uint32_t window_of(const struct task *task) { return task->kind == TASK_JOB ? JOB_WINDOW : STDIN_WINDOW; }

bool sink_charge(struct task *task, uint32_t cost) {
  if (task->in.window < cost) return false;
  task->in.window -= cost;
  task->in.owed += FRAME_COST; /* the frame's own cost comes back at once, that of its bytes when they have left */
  return true;
}

static void give_back(struct sink *in, size_t bytes) { in->owed += (uint32_t)bytes; }

static bool flush(struct sink *in) {
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
      sink_close(in->task);
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

void sink_deliver(struct task *task, const uint8_t *bytes, size_t length) {
  struct sink *in = &task->in;
  if (length > 0) in->line_open = bytes[length - 1] != '\n' && bytes[length - 1] != '\r';
  while (length > 0 && in->fd >= 0 && !in->end && in->writable && in->head == in->tail) {
    ssize_t n = write(in->fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) in->writable = false;
    if (n < 0 && errno != EAGAIN) sink_close(task);
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

/* The host has no more, and all that it sent has left. */
static bool finish(struct task *task) {
  struct sink *in = &task->in;
  if (!in->end || in->fd < 0 || in->head < in->tail) return false;
  in->end = false;
  if (!task->tty) {
    sink_close(task);
    return true;
  }
  /* What a person types to end the input: control-D; behind an unfinished line twice, as the first only sends the line. */
  size_t length = in->line_open ? 2 : 1;
  sink_deliver(task, (const uint8_t[]){4, 4}, length);
  in->owed -= in->owed < length ? in->owed : (uint32_t)length; /* the host never paid for these */
  return true;
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

bool sink_pump(struct task *task) {
  bool moved = flush(&task->in);
  if (finish(task)) moved = true;
  if (pay_back(task)) moved = true;
  return moved;
}

bool sink_busy(const struct sink *in) { return in->fd >= 0 && in->writable && in->head < in->tail; }
