#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"

enum {
  IN_SIZE = HEADER_SIZE + MAX_PAYLOAD,
  /* Data goes in up to a quarter; the rest stays for answers, each of which may be a whole frame. */
  OUT_SIZE = 1024 * 1024,
  OUT_DATA = 256 * 1024,
  OUT_ANSWER = 2 * (HEADER_SIZE + MAX_PAYLOAD), /* a call may answer with a data frame and a reply */
  PATIENCE_MS = 5,
};

struct lane lanes[MAX_LANES] = {
    {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = -1},
};

static void on_event(struct watch *watch, uint32_t events) {
  struct lane *lane = (struct lane *)watch;
  /* A lane whose host end closes reports a hang-up; the read that follows tells it apart from data that is left. */
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) lane->readable = true;
  if (events & EPOLLOUT) lane->writable = true;
}

void lane_attach(int number, int fd) {
  struct lane *lane = &lanes[number];
  lane->number = number;
  lane->fd = fd;
  lane->watch.on_event = on_event;
  /* Untouched pages cost nothing, so an unused lane costs nothing. */
  lane->in = mmap(NULL, IN_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  lane->out = mmap(NULL, OUT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (lane->in == MAP_FAILED || lane->out == MAP_FAILED || !loop_add(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, &lane->watch)) {
    say("lane %d can't be served (errno %d)", number, errno);
    lane->fd = -1;
    return;
  }
  lane->readable = lane->writable = true;
}

size_t lane_room(const struct lane *lane) {
  size_t used = lane->out_tail - lane->out_head;
  return used >= OUT_DATA ? 0 : OUT_DATA - used;
}

bool lane_can_answer(const struct lane *lane) {
  return OUT_SIZE - (lane->out_tail - lane->out_head) >= OUT_ANSWER;
}

uint8_t *lane_reserve(struct lane *lane, size_t room) {
  if (OUT_SIZE - lane->out_tail < HEADER_SIZE + room) {
    memmove(lane->out, lane->out + lane->out_head, lane->out_tail - lane->out_head);
    lane->out_tail -= lane->out_head;
    lane->out_head = 0;
  }
  if (OUT_SIZE - lane->out_tail < HEADER_SIZE + room) {
    /* Can't be: everything that sends asked for the room first. Lost framing would be worse than a lost machine. */
    say("lane %d overflows", lane->number);
    abort();
  }
  return lane->out + lane->out_tail + HEADER_SIZE;
}

void lane_commit(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, size_t length) {
  uint8_t *header = lane->out + lane->out_tail;
  struct writer w = {.at = header, .end = header + HEADER_SIZE};
  put_u32(&w, (uint32_t)length);
  put_u32(&w, channel);
  put_u8(&w, type);
  put_u8(&w, stream);
  put_u16(&w, 0);
  lane->out_tail += HEADER_SIZE + length;
  lane->flush_at = 0;
}

void lane_send(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, const void *payload, size_t length) {
  uint8_t *at = lane_reserve(lane, length);
  if (length) memcpy(at, payload, length);
  lane_commit(lane, channel, type, stream, length);
}

void lane_send_patient(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, const void *payload, size_t length) {
  bool first = lane->out_head == lane->out_tail;
  int64_t flush_at = first ? now_ms() + PATIENCE_MS : lane->flush_at;
  lane_send(lane, channel, type, stream, payload, length);
  lane->flush_at = flush_at;
}

static bool is_due(const struct lane *lane) {
  return lane->out_head < lane->out_tail && (lane->flush_at == 0 || now_ms() >= lane->flush_at);
}

int lanes_timeout(void) {
  int64_t first = -1;
  for (int i = 0; i < MAX_LANES; i++) {
    const struct lane *lane = &lanes[i];
    if (lane->fd < 0 || lane->out_head == lane->out_tail || lane->flush_at == 0) continue;
    if (!lane->writable) continue; /* its becoming so is an event of its own */
    int64_t left = lane->flush_at - now_ms();
    if (first < 0 || left < first) first = left < 0 ? 0 : left;
  }
  return (int)first;
}

void lane_fail(struct lane *lane, uint32_t channel, int error, const char *stage) {
  uint8_t payload[128];
  struct writer w = {.at = payload, .end = payload + sizeof payload};
  put_u32(&w, (uint32_t)error);
  put_string(&w, stage ? stage : "");
  lane_send(lane, channel, FRAME_FAIL, 0, payload, (size_t)(w.at - payload));
}

void lane_reset(struct lane *lane) {
  tasks_abandon(lane);
  lane->open = false;
  lane->data_left = 0;
  lane->data_task = NULL;
}

void lane_forget_task(const struct task *task) {
  if (task->lane && task->lane->data_task == task) task->lane->data_task = NULL;
}

static bool flush(struct lane *lane) {
  bool moved = false;
  if (!is_due(lane)) return false;
  while (lane->writable && lane->out_head < lane->out_tail) {
    ssize_t n = write(lane->fd, lane->out + lane->out_head, lane->out_tail - lane->out_head);
    if (n > 0) {
      lane->out_head += (size_t)n;
      moved = true;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno != EAGAIN) {
      lane->out_head = lane->out_tail; /* nobody is there to read it; the read side sees the hang-up */
    } else {
      lane->writable = false;
    }
  }
  if (lane->out_head == lane->out_tail) lane->out_head = lane->out_tail = 0;
  return moved;
}

/* One round over everything that may move. Each part moves a bounded amount, so all get their turn. */
static bool pump_round(void) {
  bool moved = false;
  for (int i = 0; i < MAX_LANES; i++) {
    struct lane *lane = &lanes[i];
    if (lane->fd < 0) continue;
    if (lane_receive(lane)) moved = true;
  }
  for (struct task *task = tasks, *next; task; task = next) {
    next = task->next;
    if (task_pump(task)) moved = true;
  }
  tasks_rotate();
  for (int i = 0; i < MAX_LANES; i++) {
    if (lanes[i].fd >= 0 && flush(&lanes[i])) moved = true;
  }
  return moved;
}

static bool any_lane(void) {
  for (int i = 0; i < MAX_LANES; i++) {
    if (lanes[i].fd >= 0) return true;
  }
  return false;
}

void lanes_pump(void) {
  /* A few rounds before the next look at epoll: its news (a process that ended, another lane) must not wait for long. */
  for (int round = 0; round < 4 && pump_round(); round++) {
  }
  trees_sweep();
  if (!any_lane()) exit(0); /* under test: a machine's lanes never go away */
}

bool lanes_busy(void) {
  for (int i = 0; i < MAX_LANES; i++) {
    const struct lane *lane = &lanes[i];
    if (lane->fd < 0) continue;
    if ((lane->readable || lane->stalled) && lane_can_answer(lane)) return true;
    if (lane->writable && is_due(lane)) return true;
  }
  for (const struct task *task = tasks; task; task = task->next) {
    if (task_busy(task)) return true;
  }
  return false;
}

/* Before power-off, when the loop no longer runs: give the last answers a moment to leave. */
bool lanes_flush(int64_t timeout_ms) {
  int64_t deadline = now_ms() + timeout_ms;
  for (;;) {
    bool left = false;
    for (int i = 0; i < MAX_LANES; i++) {
      struct lane *lane = &lanes[i];
      if (lane->fd < 0 || lane->out_head == lane->out_tail) continue;
      lane->writable = true;
      lane->flush_at = 0;
      flush(lane);
      if (lane->out_head < lane->out_tail) left = true;
    }
    if (!left) return true;
    if (now_ms() >= deadline) return false;
    usleep(1000);
  }
}
