#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent.h"

/* Bytes from a process to the host: read straight into the lane's buffer, when there is credit and room for them. */

static void on_source(struct watch *watch, uint32_t events) {
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) ((struct source *)watch)->readable = true;
  struct task *task = ((struct source *)watch)->task;
  /* A terminal has one descriptor for both ways. */
  if (task->tty && (events & EPOLLOUT)) task->in.writable = true;
}

void source_open(struct task *task, int index, int fd, uint32_t credit) {
  struct source *out = &task->out[index];
  out->task = task;
  out->fd = fd;
  out->stream = (uint8_t)(index + 1);
  out->credit = credit;
  out->readable = true;
  out->watch.on_event = on_source;
  loop_add(fd, task->tty ? EPOLLIN | EPOLLOUT : EPOLLIN, &out->watch);
}

void source_close(struct source *out) {
  loop_close(out->fd);
  out->fd = -1;
  if (out->task && out->task->tty) out->task->in.fd = -1;
}

void source_credit(struct task *task, uint8_t stream, uint32_t amount) {
  if (stream < 1 || stream > 2) return;
  struct source *out = &task->out[stream - 1];
  out->credit = out->credit > UINT32_MAX - amount ? UINT32_MAX : out->credit + amount;
}

bool source_ready(const struct source *out) {
  if (out->fd < 0 || !out->readable) return false;
  const struct lane *lane = out->task->lane;
  return !lane || (out->credit > FRAME_COST && lane_room(lane) >= HEADER_SIZE + 4096);
}

bool source_pump(struct source *out) {
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
  source_close(out); /* the end, or EIO of a terminal that nobody holds any more */
  if (lane) lane_send_patient(lane, task->channel, FRAME_END, out->stream, NULL, 0);
  return true;
}
