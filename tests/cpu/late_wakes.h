// Included before the engine's sources by test_engine_threads.py. engine_threads.cpp decides when a thread that was woken comes,
// for POSIX promises no time, and what the clock shows.
#pragma once
#include <pthread.h>
#include <time.h>

int late_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex);
int shown_time(clockid_t clock, timespec* time);
#define pthread_cond_wait late_cond_wait
#define clock_gettime shown_time
