/*
 * smolvm-agent: the first process of a machine. It prepares the root file system, then serves the host through lanes
 * (virtio-serial ports) with the protocol of docs/protocol.md. One thread, one epoll loop; it blocks nowhere but in boot.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#ifndef AGENT_VERSION
#define AGENT_VERSION "0"
#endif

/* -- console.c: what a person reads when a boot fails ---------------------------------------------------------- */

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* -- wire.c: reading what arrived, bounds-checked; writing what leaves ------------------------------------------ */

struct reader {
  const uint8_t *at, *end;
  bool bad; /* set by the first read past the end; everything read after that is zero or empty */
};

uint8_t get_u8(struct reader *r);
uint16_t get_u16(struct reader *r);
uint32_t get_u32(struct reader *r);
uint64_t get_u64(struct reader *r);
const uint8_t *get_bytes(struct reader *r, uint32_t *length);
const char *get_string(struct reader *r); /* never NULL, ends in NUL, has no other */

struct writer {
  uint8_t *at, *end;
  bool full;
};

void put_u8(struct writer *w, uint8_t value);
void put_u16(struct writer *w, uint16_t value);
void put_u32(struct writer *w, uint32_t value);
void put_u64(struct writer *w, uint64_t value);
void put_bytes(struct writer *w, const void *bytes, size_t length);
void put_string(struct writer *w, const char *text);

/* -- loop.c: one epoll for everything -------------------------------------------------------------------------- */

struct watch {
  void (*on_event)(struct watch *watch, uint32_t events);
};

void loop_start(void);
bool loop_add(int fd, uint32_t events, struct watch *watch); /* edge-triggered; false if fd can't be watched */
void loop_close(int fd); /* stops watching and closes; -1 is fine */
void loop_run(void) __attribute__((noreturn));
int64_t now_ms(void); /* monotonic */

/* -- lane.c, receive.c: one connection to the host ------------------------------------------------------------- */

enum {
  HEADER_SIZE = 12,
  MAX_PAYLOAD = 256 * 1024,
  FRAME_COST = 64,           /* what a data frame costs in credit besides its bytes */
  DATA_PAYLOAD = 128 * 1024, /* largest data frame the agent makes */
  MAX_LANES = 8,
  MAX_TASKS = 4096, /* at once, on all lanes */
};

enum frame_type {
  FRAME_CALL = 1,
  FRAME_EXEC = 2,
  FRAME_DATA = 3,
  FRAME_END = 4,
  FRAME_CREDIT = 5,
  FRAME_SIGNAL = 6,
  FRAME_RESIZE = 7,
  FRAME_CANCEL = 8,
  FRAME_REPLY = 16,
  FRAME_FAIL = 17,
  FRAME_STARTED = 18,
  FRAME_EXIT = 19,
  FRAME_ERROR = 20,
};

struct task;

struct lane {
  struct watch watch;
  int fd; /* -1: not in use */
  int number;
  bool connected; /* the host has its end open */
  bool open;      /* the handshake is done */
  bool was_open;
  bool readable, writable;
  bool stalled; /* input waits for room for its answers */
  uint8_t nonce[16];
  uint8_t *in;
  size_t in_used;
  uint8_t *out;
  size_t out_head, out_tail;
  int64_t flush_at; /* until when what waits to be sent may wait for more, in ms; 0: not at all */
  uint32_t data_left;     /* bytes of the data frame in progress that have not come yet */
  struct task *data_task; /* where they go; NULL: nowhere */
};

void lane_attach(int number, int fd);
void lanes_pump(void); /* moves whatever can be moved */
bool lanes_busy(void); /* true when there is more to move at once */
int lanes_timeout(void); /* ms until something that waits must be sent, -1: nothing waits */
bool lanes_flush(int64_t timeout_ms);
size_t lane_room(const struct lane *lane);
void lane_forget_task(const struct task *task);
void lane_reset(struct lane *lane);          /* ends its commands and waits for the next handshake */
bool lane_receive(struct lane *lane);        /* reads and acts on what arrived; true if something moved */
bool lane_can_answer(const struct lane *lane); /* there is room for whatever one frame can cause */
extern struct lane lanes[MAX_LANES];

/* Appends a frame. Callers of lane_send have made sure of the room. */
void lane_send(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, const void *payload, size_t length);
/*
 * Appends a frame that nobody acts on at once: it may wait a few milliseconds for the next one. Each write to a lane wakes the
 * host and takes the processor from the command, and a short command is over before the time is.
 */
void lane_send_patient(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, const void *payload, size_t length);
/* A frame whose payload the caller writes in place: at most `room` bytes from the returned pointer, then commit. */
uint8_t *lane_reserve(struct lane *lane, size_t room);
void lane_commit(struct lane *lane, uint32_t channel, uint8_t type, uint8_t stream, size_t length);
void lane_fail(struct lane *lane, uint32_t channel, int error, const char *stage);

/* -- tree.c: everything that a command started ------------------------------------------------------------------ */

struct tree {
  uint32_t id;
  int cgroup; /* its folder, or -1: followed through /proc */
};

void tree_start(const char *root); /* a cgroup2 folder to work in, or NULL to do without */
struct tree tree_new(void);
void tree_kill(const struct tree *tree, pid_t leader); /* leader: the command's first process while it runs, else 0 */
void tree_done(const struct tree *tree);
void trees_changed(void); /* a process of somebody's has ended */
void trees_sweep(void);

/* -- task.c: what runs as a process of its own: commands, file streams, long jobs ------------------------------- */

enum task_kind { TASK_COMMAND, TASK_JOB };

/* Bytes on their way from the host to a process. */
struct sink {
  struct watch watch;
  struct task *task;
  int fd;
  bool writable, end; /* end: the host has no more */
  bool line_open;     /* the last byte did not end a line */
  uint8_t *buffer;
  size_t head, tail;
  uint32_t window; /* cost the host may still spend */
  uint32_t owed;   /* cost to give back */
};

/* Bytes on their way from a process to the host. */
struct source {
  struct watch watch;
  struct task *task;
  int fd;
  uint8_t stream;
  bool readable;
  uint32_t credit;
  size_t due; /* bytes that were in the pipe when the process ended: they are delivered whatever happens */
};

struct task {
  struct task *next;
  struct lane *lane; /* NULL: nobody waits for it any more */
  uint32_t channel;
  enum task_kind kind;
  pid_t pid;
  bool exited, tty, over; /* over: to be freed by the next pump */
  int status;
  int64_t exited_at;
  struct tree tree;
  struct sink in;
  struct source out[2];
  char *scrap; /* file to remove if the job does not succeed */
};

enum {
  STDIN_WINDOW = 128 * 1024,
  JOB_WINDOW = 512 * 1024,
  DRAIN_GRACE_MS = 250, /* how long a background process that holds a dead command's pipes can still add to its output */
};

struct task *task_new(struct lane *lane, uint32_t channel, enum task_kind kind);
struct task *task_find(const struct lane *lane, uint32_t channel);
void task_drop(struct task *task); /* the start failed */
void task_end(struct task *task, uint8_t stream); /* of the input, or the host wants no more of an output */
void task_signal(struct task *task, int signal, bool whole_tree);
void task_resize(struct task *task, uint16_t cols, uint16_t rows);
void task_abandon(struct task *task); /* kill it, nobody listens any more */
void tasks_abandon(struct lane *lane);
void tasks_reap(void);
bool task_pump(struct task *task); /* true if something moved */
void tasks_rotate(void);
bool task_busy(const struct task *task);
int tasks_timeout(void); /* ms until a grace ends, -1: none */
extern struct task *tasks;

/* -- sink.c, source.c: a task's input and its outputs -------------------------------------------------------------- */

void sink_open(struct task *task, int fd, uint32_t window);
void sink_close(struct task *task);
bool sink_charge(struct task *task, uint32_t cost); /* false: the host has no credit for it */
void sink_deliver(struct task *task, const uint8_t *bytes, size_t length);
bool sink_pump(struct task *task);
bool sink_busy(const struct sink *in);

void source_open(struct task *task, int index, int fd, uint32_t credit);
void source_close(struct source *out);
void source_credit(struct task *task, uint8_t stream, uint32_t amount);
bool source_ready(const struct source *out);
bool source_pump(struct source *out);

/* -- job.c: work in a child -------------------------------------------------------------------------------------------- */

/* Runs `work` in a child; its result, an errno, ends the channel with REPLY or FAIL. */
struct job {
  int (*work)(void *context); /* finds its pipes at descriptors 0 and 1, its file at 2 */
  void *context;
  int fd; /* the file, or -1 */
  bool input, output;
  uint32_t credit;
  char *scrap; /* owned by the task from here on */
};
void job_start(struct lane *lane, uint32_t channel, const struct job *job, const char *stage);

/* -- spawn.c, exec.c, user.c -------------------------------------------------------------------------------------- */

struct user {
  uid_t uid;
  gid_t gid;
  gid_t groups[64];
  int group_count;
  char name[64], home[256], shell[256];
};

/* "name", "uid", "name:group", "uid:gid"; "" is root. 0 or an errno: ENOENT for an unknown name. */
int user_resolve(const char *spec, struct user *user);

struct spawn {
  const char *const *argv;
  const char *const *envp;
  const char *path; /* list of folders to search */
  const char *cwd;  /* NULL: the user's home, else "/" */
  const struct user *user;
  int fds[3];
  bool tty;
  int cgroup; /* folder descriptor, or -1 */
  int error;  /* result: errno and the stage it came from */
  const char *stage;
};

pid_t spawn(struct spawn *s); /* -1 on failure, with s->error and s->stage */
void exec_command(struct lane *lane, uint32_t channel, struct reader *r);
bool environment_set(struct reader *r); /* false: malformed or too many */

/* -- call.c, files.c, target.c, transfer.c, machine.c, grow.c, network.c, power.c ----------------------------------------- */

bool call_dispatch(struct lane *lane, uint32_t channel, struct reader *r); /* false: unknown or malformed */

/* Each fills in the reply and gives 0 or an errno; *stage names what failed. */
int file_operation(uint16_t op, struct reader *r, struct writer *reply, const char **stage);

enum { TARGET_APPEND = 1, TARGET_EXCLUSIVE = 2, TARGET_ATOMIC = 4, TARGET_SYNC = 8 };

struct target {
  int fd;
  bool sync;
  char *temporary, *final; /* NULL unless atomic */
};

int target_open(struct target *target, const char *path, uint8_t flags, uint32_t mode);
int target_finish(struct target *target, int error); /* gives `error`, or the first one of finishing */

void file_read(struct lane *lane, uint32_t channel, struct reader *r);
void file_write(struct lane *lane, uint32_t channel, struct reader *r);
void file_list(struct lane *lane, uint32_t channel, struct reader *r);
void file_remove(struct lane *lane, uint32_t channel, struct reader *r);
int machine_configure(struct reader *r, const char **stage);
int grow_root(void *context); /* a job's work: makes an ext4 at / as large as its disk */
int network_up(const char *address, int prefix, const char *gateway, const char *dns);
void make_folders(const char *path); /* like mkdir -p, failures are found by whoever uses the folder */
extern bool configured;

void power_off(void) __attribute__((noreturn));

/* -- boot.c -------------------------------------------------------------------------------------------------------- */

extern struct rlimit child_file_limit; /* of open files, as it was before the agent raised its own */
extern bool is_init;       /* this is the machine's own agent, not one under test */
extern bool owner_attached; /* power off when lane 0 closes */
void boot(void);
void load_modules(const char *folder);

#endif
