#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

enum { JOB_PIPE_SIZE = 1024 * 1024 };

/* A forked child has copies of every descriptor here, and no exec will close them: an open pipe end would hide its end. */
static void close_others(void) {
  if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0) return;
  int limit = (int)sysconf(_SC_OPEN_MAX);
  for (int fd = 3; fd < limit; fd++) close(fd);
}

/* Descriptor 0 is the job's input and 1 its output; its file is 2. */
static void child(const struct job *job, int input, int output) __attribute__((noreturn));
static void child(const struct job *job, int input, int output) {
  sigset_t none;
  sigemptyset(&none);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (input >= 0) dup2(input, 0);
  if (output >= 0) dup2(output, 1);
  if (job->fd >= 0) dup2(job->fd, 2);
  close_others();
  _exit(job->work(job->context));
}

void job_start(struct lane *lane, uint32_t channel, const struct job *job, const char *stage) {
  int in[2] = {-1, -1}, out[2] = {-1, -1};
  struct task *task = task_new(lane, channel, TASK_JOB);
  int error = task ? 0 : EAGAIN;
  if (!error && job->input && pipe2(in, O_CLOEXEC) < 0) error = errno;
  if (!error && job->output && pipe2(out, O_CLOEXEC) < 0) error = errno;
  if (!error) {
    /* Only our ends: the job itself works blocking. Larger pipes mean fewer switches between the two. */
    if (in[1] >= 0) fcntl(in[1], F_SETFL, O_NONBLOCK), fcntl(in[1], F_SETPIPE_SZ, JOB_PIPE_SIZE);
    if (out[0] >= 0) fcntl(out[0], F_SETFL, O_NONBLOCK), fcntl(out[0], F_SETPIPE_SZ, JOB_PIPE_SIZE);
    task->pid = fork();
    if (task->pid == 0) child(job, in[0], out[1]);
    if (task->pid < 0) error = errno;
  }
  if (in[0] >= 0) close(in[0]);
  if (out[1] >= 0) close(out[1]);
  if (error) {
    if (in[1] >= 0) close(in[1]);
    if (out[0] >= 0) close(out[0]);
    if (job->scrap) unlink(job->scrap);
    free(job->scrap);
    if (task) task_drop(task);
    lane_fail(lane, channel, error, stage);
    return;
  }
  task->scrap = job->scrap;
  if (in[1] >= 0) {
    sink_open(task, in[1], JOB_WINDOW);
    uint8_t payload[8];
    struct writer w = {.at = payload, .end = payload + sizeof payload};
    put_u32(&w, 0);
    put_u32(&w, JOB_WINDOW);
    lane_send(lane, channel, FRAME_STARTED, 0, payload, sizeof payload);
  }
  if (out[0] >= 0) source_open(task, 0, out[0], job->credit);
}
