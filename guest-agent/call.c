#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

/* The numbers are the protocol's: docs/protocol.md. */
enum operation {
  OP_PING = 1,
  OP_CONFIGURE = 2,
  OP_SET_ENVIRONMENT = 3,
  OP_SYNC = 4,
  OP_POWER_OFF = 5,
  OP_GROW_ROOT = 6,
  OP_READ = 16,
  OP_WRITE = 17,
  OP_LIST = 18,
  OP_REMOVE = 19,
  OP_FILE_FIRST = 32,
  OP_FILE_LAST = 63,
};

static int run_sync(void *context) {
  (void)context;
  sync();
  return 0;
}

static void reply(struct lane *lane, uint32_t channel, int error, const char *stage) {
  if (error) {
    lane_fail(lane, channel, error, stage);
  } else {
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
  }
}

static void simple_file_operation(struct lane *lane, uint32_t channel, uint16_t op, struct reader *r) {
  enum { LARGEST_REPLY = 8192 }; /* a link's target: PATH_MAX and a little */
  uint8_t *at = lane_reserve(lane, LARGEST_REPLY);
  struct writer w = {.at = at, .end = at + LARGEST_REPLY};
  const char *stage = "";
  int error = file_operation(op, r, &w, &stage);
  if (r->bad) return;
  if (error) return lane_fail(lane, channel, error, stage);
  lane_commit(lane, channel, FRAME_REPLY, 0, (size_t)(w.at - at));
}

bool call_dispatch(struct lane *lane, uint32_t channel, struct reader *r) {
  uint16_t op = get_u16(r);
  const char *stage = "";
  switch (op) {
  case OP_PING:
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
    break;
  case OP_CONFIGURE: {
    int error = machine_configure(r, &stage);
    if (!r->bad) reply(lane, channel, error, stage);
    break;
  }
  case OP_SET_ENVIRONMENT:
    if (!environment_set(r)) return false;
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
    break;
  case OP_SYNC: {
    struct job job = {.work = run_sync, .fd = -1};
    job_start(lane, channel, &job, "sync");
    break;
  }
  case OP_POWER_OFF:
    lane_send(lane, channel, FRAME_REPLY, 0, NULL, 0);
    lanes_flush(1000);
    power_off();
  case OP_GROW_ROOT: {
    struct job job = {.work = grow_root, .fd = -1};
    job_start(lane, channel, &job, "grow");
    break;
  }
  case OP_READ:
    file_read(lane, channel, r);
    break;
  case OP_WRITE:
    file_write(lane, channel, r);
    break;
  case OP_LIST:
    file_list(lane, channel, r);
    break;
  case OP_REMOVE:
    file_remove(lane, channel, r);
    break;
  default:
    if (op < OP_FILE_FIRST || op > OP_FILE_LAST) return false;
    simple_file_operation(lane, channel, op, r);
  }
  return !r->bad;
}
