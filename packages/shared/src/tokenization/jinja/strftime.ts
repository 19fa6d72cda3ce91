import { TemplateUnsupported } from "./values.ts";

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = "January February March April May June July August September October November December".split(" ");

/** Python's `datetime.now().strftime(format)` in the C locale; `now` is read in local time, as the engine does. */
export function strftime(now: Date, format: string): string {
  return format.replace(/%(-?)([a-zA-Z%])/g, (_match, dash: string, directive: string) => {
    const text = field(now, directive);
    return dash === "" ? text : text.replace(/^0+(?=.)/, "");
  });
}

function pad(value: number, width = 2): string {
  return String(value).padStart(width, "0");
}

function dayOfYear(now: Date): number {
  const start = Date.UTC(now.getFullYear(), 0, 1);
  return Math.round((Date.UTC(now.getFullYear(), now.getMonth(), now.getDate()) - start) / 86_400_000) + 1;
}

/** Week of the year when weeks begin on `firstDay` (0 Sunday, 1 Monday). */
function week(now: Date, firstDay: number): number {
  return Math.floor((dayOfYear(now) + 6 - ((now.getDay() + 7 - firstDay) % 7)) / 7);
}

function field(now: Date, directive: string): string {
  const hour = now.getHours();
  switch (directive) {
    case "a":
      return (DAYS[now.getDay()] ?? "").slice(0, 3);
    case "A":
      return DAYS[now.getDay()] ?? "";
    case "w":
      return String(now.getDay());
    case "u":
      return String(now.getDay() || 7);
    case "d":
      return pad(now.getDate());
    case "e":
      return String(now.getDate()).padStart(2, " ");
    case "b":
    case "h":
      return (MONTHS[now.getMonth()] ?? "").slice(0, 3);
    case "B":
      return MONTHS[now.getMonth()] ?? "";
    case "m":
      return pad(now.getMonth() + 1);
    case "y":
      return pad(now.getFullYear() % 100);
    case "Y":
      return String(now.getFullYear());
    case "H":
      return pad(hour);
    case "I":
      return pad(hour % 12 || 12);
    case "p":
      return hour < 12 ? "AM" : "PM";
    case "M":
      return pad(now.getMinutes());
    case "S":
      return pad(now.getSeconds());
    case "f":
      return pad(now.getMilliseconds() * 1000, 6);
    case "j":
      return pad(dayOfYear(now), 3);
    case "U":
      return pad(week(now, 0));
    case "W":
      return pad(week(now, 1));
    case "z":
    case "Z":
      // A naive datetime prints no zone.
      return "";
    case "c":
      return `${field(now, "a")} ${field(now, "b")} ${field(now, "e")} ${field(now, "X")} ${field(now, "Y")}`;
    case "x":
    case "D":
      return `${field(now, "m")}/${field(now, "d")}/${field(now, "y")}`;
    case "X":
    case "T":
      return `${field(now, "H")}:${field(now, "M")}:${field(now, "S")}`;
    case "F":
      return `${field(now, "Y")}-${field(now, "m")}-${field(now, "d")}`;
    case "R":
      return `${field(now, "H")}:${field(now, "M")}`;
    case "n":
      return "\n";
    case "t":
      return "\t";
    case "%":
      return "%";
    default:
      throw new TemplateUnsupported(`strftime directive %${directive}`);
  }
}
