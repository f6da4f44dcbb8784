import AuditTrail
import Glibc

/// Measures the audit trail and lives the lives that crash tests end; see scripts/bench and `CrashProcessTests`.
@main
enum TrailBench {
    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do {
            switch (arguments.first, arguments.count) {
            case ("life", 2): try Life(arguments[1]).live()
            case ("write", 4):
                try Life(arguments[1]).write(threads: number(arguments[2]), records: number(arguments[3]))
            case ("erased", 2): try Life(arguments[1]).closeAndWait()
            case ("appends", 5):
                try Appends(folder: arguments[1], writers: number(arguments[2]), eras: number(arguments[3])).run(
                    milliseconds: number(arguments[4]))
            case ("heads", 3):
                try Appends(folder: arguments[1], writers: 16, eras: 4).heads(
                    milliseconds: number(arguments[2]))
            case ("fill", 3): try BigLog(arguments[1]).fill(number(arguments[2]))
            case ("recover", 2): try BigLog(arguments[1]).recover()
            case ("verify", 2): try BigLog(arguments[1]).verify()
            case ("open", 2): try BigLog(arguments[1]).verify(opens: true)
            case ("check", 3): try BigLog(arguments[1]).check(arguments[2])
            case ("export", 3): try BigLog(arguments[1]).export(to: arguments[2])
            case ("seal", 3): try BigLog(arguments[1]).seal(to: arguments[2])
            default: usage()
            }
        } catch let error as TrailError {
            print("refused \(error.code.rawValue)")
            exit(69)
        } catch {
            print("failed \(error)")
            exit(70)
        }
    }

    private static func number(_ text: String) -> Int {
        guard let number = Int(text), number > 0 else { usage() }
        return number
    }

    private static func usage() -> Never {
        print(
            """
            usage: trail-bench life FOLDER | write FOLDER THREADS RECORDS | erased FOLDER
                   trail-bench appends FOLDER WRITERS RUNS MILLISECONDS | heads FOLDER MILLISECONDS
                   trail-bench fill FOLDER RECORDS | recover FOLDER | verify FOLDER | open FOLDER
                   trail-bench export FOLDER TARGET | check FOLDER TARGET
                   trail-bench seal FOLDER TARGET-FILE
            """)
        exit(2)
    }
}
