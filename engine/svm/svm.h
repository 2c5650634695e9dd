/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The svm engine (AMD-V). hw_svm, its side for each CPU, is in engine/hw.h. */
#ifndef LODGE_ENGINE_SVM_H
#define LODGE_ENGINE_SVM_H

#include "engine/engine.h"

extern const struct engine engine_svm;

#endif
