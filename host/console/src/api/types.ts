// The shapes of the API, generated from docs/openapi.json, under short names.

import type { components } from "./schema";

type Schemas = components["schemas"];

export type Problem = Schemas["Problem"];
export type Session = Schemas["SessionView"];
export type StageStatus = Schemas["StageStatus"];
export type ControlState = Schemas["ControlState"];
export type Topology = Schemas["Topology"];
export type Hosts = Schemas["Hosts"];
export type Readiness = Schemas["Readiness"];
export type Liveness = Schemas["Liveness"];
export type Namespace = Schemas["Namespace"];
export type SubjectKind = Schemas["SubjectKind"];
export type Delivery = Schemas["Delivery"];
export type DeliveryStatus = Schemas["DeliveryStatus"];
export type FailedAttempt = Schemas["FailedAttempt"];
export type LoggedEvent = Schemas["Event"];
export type DeadLetterGroup = Schemas["DeadLetterGroup"];
export type DeadLetterSummary = Schemas["DeadLetterSummary"];
export type DeadLetter = Schemas["DeadLetter"];
export type Successor = Schemas["Successor"];
export type Job = Schemas["Job"];
export type PluginStatus = Schemas["PluginStatus"];
export type PluginLoad = Schemas["PluginLoad"];
export type PluginRolledBack = Schemas["PluginRolledBack"];
export type Recorded = Schemas["Recorded"];
export type Comparison = Schemas["Comparison"];
export type ComparedEvent = Schemas["ComparedEvent"];
export type ComparedChange = Schemas["ComparedChange"];
export type ComparedReason = Schemas["ComparedReason"];
export type AuditRecord = Schemas["AuditRecord"];
export type AuditLog = Schemas["AuditLog"];
export type Configuration = Schemas["Configuration"];
export type Setting = Schemas["Setting"];
export type Limits = Schemas["Limits"];
export type Encryption = Schemas["Encryption"];
export type MessageKey = Schemas["MessageKey"];
export type ApiKey = Schemas["ApiKey"];
export type Chain = Schemas["Chain"];
export type OrderReceipt = Schemas["OrderCancelReceipt"];

/** A page of a list; `next` is the cursor of the next one. */
export interface Page<T> {
  items: T[];
  next?: number | null;
}

/** A subject in a list: its id is in the field that its kind names. */
export interface SubjectSummary {
  status: string;
  customer?: string | null;
  created_at_ms: number;
  updated_at_ms: number;
  display?: Record<string, unknown>;
  [field: string]: unknown;
}

/** A subject with its timeline, of which `next` names the next page. */
export interface Subject extends SubjectSummary {
  timeline: Delivery[];
  next?: number | null;
  unreadable?: string | null;
}
