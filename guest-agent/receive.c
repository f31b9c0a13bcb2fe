#include <errno.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent.h"

enum { PROTOCOL_VERSION = 1, MAGIC_SIZE = 16, HELLO_SIZE = 48, IN_CAPACITY = HEADER_SIZE + MAX_PAYLOAD, DATA_PIECE = 64 * 1024 };

/* As the length of a frame its first four bytes would be far above the limit, so a hello is never taken for a frame. */
static const uint8_t hello_magic[MAGIC_SIZE] = "smolvm-hello\r\n\xff";
static const uint8_t welcome_magic[MAGIC_SIZE] = "smolvm-welcom\r\n\xff";

static void consume(struct lane *lane, size_t length) {
  memmove(lane->in, lane->in + length, lane->in_used - length);
  lane->in_used -= length;
}

static void protocol_error(struct lane *lane, const char *reason) {
  size_t length = strlen(reason);
  lane_send(lane, 0, FRAME_ERROR, 0, reason, length);
  lane_reset(lane);
}

static void welcome(struct lane *lane) {
  uint8_t *start = lane_reserve(lane, 1024) - HEADER_SIZE;
  struct writer w = {.at = start, .end = start + 1024};
  struct utsname name;
  uname(&name);
  memcpy(w.at, welcome_magic, MAGIC_SIZE);
  w.at += MAGIC_SIZE;
  memcpy(w.at, lane->nonce, sizeof lane->nonce);
  w.at += sizeof lane->nonce;
  put_u32(&w, lane->open ? PROTOCOL_VERSION : 0);
  uint8_t *length_at = w.at;
  put_u32(&w, 0);
  uint8_t *info = w.at;
  put_string(&w, AGENT_VERSION);
  put_string(&w, name.release);
  put_string(&w, name.machine);
  put_u8(&w, is_init);
  put_u8(&w, (uint8_t)lane->number);
  put_u8(&w, configured);
  struct writer length = {.at = length_at, .end = info};
  put_u32(&length, (uint32_t)(w.at - info));
  lane->out_tail += (size_t)(w.at - start);
}

/* A client's first bytes, or a new client on a lane whose old one went unnoticed. */
static void hello(struct lane *lane, const uint8_t *at) {
  struct reader r = {.at = at + MAGIC_SIZE + 16, .end = at + HELLO_SIZE};
  uint32_t oldest = get_u32(&r), newest = get_u32(&r);
  lane_reset(lane);
  lane->out_head = lane->out_tail = 0; /* the new client would only have to skip it */
  memcpy(lane->nonce, at + MAGIC_SIZE, sizeof lane->nonce);
  lane->open = oldest <= PROTOCOL_VERSION && PROTOCOL_VERSION <= newest;
  if (lane->open) lane->was_open = true;
  welcome(lane);
}

/* Skips what an earlier client left until a hello starts at the front. True when a whole one is there. */
static bool scan(struct lane *lane) {
  uint8_t *found = memmem(lane->in, lane->in_used, hello_magic, MAGIC_SIZE);
  if (found) {
    consume(lane, (size_t)(found - lane->in));
  } else if (lane->in_used >= MAGIC_SIZE) {
    consume(lane, lane->in_used - (MAGIC_SIZE - 1)); /* its first bytes may be at the end */
  }
  return found && lane->in_used >= HELLO_SIZE;
}

static void act(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, struct reader *r) {
  if (channel == 0) return protocol_error(lane, "channel 0 is not for requests");
  struct task *task = task_find(lane, channel);
  switch (type) {
  case FRAME_CALL:
  case FRAME_EXEC:
    if (task) return protocol_error(lane, "channel in use");
    if (type == FRAME_EXEC) {
      exec_command(lane, channel, r);
      if (r->bad) protocol_error(lane, "malformed exec");
    } else if (!call_dispatch(lane, channel, r)) {
      protocol_error(lane, "malformed call");
    }
    return;
  case FRAME_END:
    if (task) task_end(task, stream);
    return;
  case FRAME_CREDIT: {
    uint32_t amount = get_u32(r);
    if (task && !r->bad) source_credit(task, stream, amount);
    break;
  }
  case FRAME_SIGNAL: {
    uint8_t signal = get_u8(r), tree = get_u8(r);
    if (task && !r->bad) task_signal(task, signal, tree != 0);
    break;
  }
  case FRAME_RESIZE: {
    uint16_t cols = get_u16(r), rows = get_u16(r);
    if (task && !r->bad) task_resize(task, cols, rows);
    break;
  }
  case FRAME_CANCEL:
    if (task) {
      task_abandon(task);
      lane_fail(lane, channel, ECANCELED, "cancel");
    }
    return;
  default:
    return protocol_error(lane, "unknown frame type");
  }
  if (r->bad) protocol_error(lane, "malformed frame");
}

/* Starts the data frame whose header is at the front; its bytes are passed on as they come. */
static void begin_data(struct lane *lane, uint32_t channel, uint8_t stream, uint32_t length) {
  if (length == 0 || stream != 0) return protocol_error(lane, "bad data frame");
  struct task *task = task_find(lane, channel); /* gone is fine: it ended while this was on its way */
  if (task && !sink_charge(task, length + FRAME_COST)) return protocol_error(lane, "data without credit");
  lane->data_task = task;
  lane->data_left = length;
}

/* Handles what stands at the front of the input. Returns the bytes used up, 0 if more are needed. */
static size_t step(struct lane *lane, const uint8_t *at, size_t available) {
  if (lane->data_left > 0) {
    /* A port brings a page at a time. The host sends whole frames, so the rest is near: pass it on in decent pieces. */
    if (available < lane->data_left && available < DATA_PIECE) return 0;
    size_t part = available < lane->data_left ? available : lane->data_left;
    if (lane->data_task) sink_deliver(lane->data_task, at, part);
    lane->data_left -= (uint32_t)part;
    return part;
  }
  if (available < HEADER_SIZE) return 0;
  if (memcmp(at, hello_magic, 4) == 0) {
    if (available < HELLO_SIZE) return 0;
    if (memcmp(at, hello_magic, MAGIC_SIZE) != 0) {
      protocol_error(lane, "frame too long");
      return HEADER_SIZE;
    }
    hello(lane, at);
    return HELLO_SIZE;
  }
  struct reader r = {.at = at, .end = at + HEADER_SIZE};
  uint32_t length = get_u32(&r), channel = get_u32(&r);
  uint8_t type = get_u8(&r), stream = get_u8(&r);
  if (get_u16(&r) != 0 || length > MAX_PAYLOAD) {
    protocol_error(lane, length > MAX_PAYLOAD ? "frame too long" : "bad header");
    return HEADER_SIZE;
  }
  if (type == FRAME_DATA) {
    begin_data(lane, channel, stream, length);
    return HEADER_SIZE;
  }
  if (available < HEADER_SIZE + length) return 0;
  struct reader payload = {.at = at + HEADER_SIZE, .end = at + HEADER_SIZE + length};
  act(lane, channel, type, stream, &payload);
  return HEADER_SIZE + length;
}

static bool parse(struct lane *lane) {
  size_t at = 0;
  lane->stalled = false;
  while (at < lane->in_used) {
    if (!lane->open) {
      consume(lane, at);
      at = 0;
      if (!scan(lane)) break;
      hello(lane, lane->in);
      at = HELLO_SIZE;
      continue;
    }
    if (!lane_can_answer(lane)) {
      lane->stalled = true;
      break;
    }
    size_t used = step(lane, lane->in + at, lane->in_used - at);
    if (used == 0) break;
    at += used;
  }
  if (at > 0) consume(lane, at);
  return at > 0;
}

static void hang_up(struct lane *lane) {
  if (is_init && !lane->connected) return; /* a port that nobody has opened yet reads like a closed one */
  lane->connected = false;
  lane_reset(lane);
  lane->in_used = lane->out_head = lane->out_tail = 0;
  if (is_init && owner_attached && lane->number == 0 && lane->was_open) power_off();
  if (!is_init) {
    loop_close(lane->fd);
    lane->fd = -1;
  }
}

bool lane_receive(struct lane *lane) {
  if (!lane_can_answer(lane)) return false;
  bool moved = false;
  if (lane->stalled) moved = parse(lane);
  /* A port gives at most a page at each read: collect a batch before looking at it. */
  while (lane->readable && lane->in_used < IN_CAPACITY) {
    ssize_t n = read(lane->fd, lane->in + lane->in_used, IN_CAPACITY - lane->in_used);
    if (n > 0) {
      lane->in_used += (size_t)n;
      lane->connected = moved = true;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      lane->readable = false;
    } else {
      lane->readable = false;
      parse(lane);
      hang_up(lane);
      return moved;
    }
  }
  return parse(lane) || moved;
}
