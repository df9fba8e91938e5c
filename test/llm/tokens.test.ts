import { readFileSync } from "node:fs";
import { encode } from "gpt-tokenizer/encoding/o200k_base";
import { describe, expect, test } from "vitest";
import { estimateTokens } from "../../lib/llm/tokens.ts";
import { random, seed, trials } from "../support/seed.ts";

/** The first article of the Universal Declaration of Human Rights. */
const prose: Record<string, string> = {
  English:
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
  German:
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
  French:
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
  Spanish:
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
  Italian:
    "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
  Portuguese:
    "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
  Dutch:
    "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
  Swedish:
    "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och bör handla gentemot varandra i en anda av broderskap.",
  Finnish:
    "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
  Polish:
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
  Czech:
    "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství.",
  Hungarian:
    "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri szellemben kell hogy viseltessenek.",
  Romanian:
    "Toate ființele umane se nasc libere și egale în demnitate și în drepturi. Ele sunt înzestrate cu rațiune și conștiință și trebuie să se comporte unele față de altele în spiritul fraternității.",
  Turkish:
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
  Vietnamese:
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. Mọi con người đều được tạo hoá ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu.",
  Indonesian:
    "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama. Mereka dikaruniai akal dan hati nurani dan hendaknya bergaul satu sama lain dalam semangat persaudaraan.",
  Swahili:
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa watendeane kindugu.",
  Russian:
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
  Ukrainian:
    "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі братерства.",
  Greek:
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
  Arabic: "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.",
  Persian:
    "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. همه دارای عقل و وجدان هستند و باید نسبت به یکدیگر با روح برادری رفتار کنند.",
  Hebrew:
    "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",
  Hindi:
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
  Bengali:
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",
  Tamil:
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்.",
  Thai: "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
  Korean:
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
  Japanese:
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
  Chinese: "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
  "Chinese, traditional": "人人生而自由,在尊嚴和權利上一律平等。他們賦有理性和良心,並應以兄弟關係的精神互相對待。",
  Georgian:
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით. მათ მინიჭებული აქვთ გონება და სინდისი და ერთმანეთის მიმართ უნდა იქცეოდნენ ძმობის სულისკვეთებით.",
};

const numbers = Array.from({ length: 60 }, (_, i) => (i * 7919 + i * i * 13) % 9973);
const signs: Record<string, string> = {
  code: readFileSync("lib/audit/group.ts", "utf8"),
  markup: `<ul class="list">\n${numbers.map((n) => `  <li id="item-${n}"><a href="/items/${n}?page=2">Item ${n}</a></li>`).join("\n")}\n</ul>`,
  markdown: readFileSync("README.md", "utf8"),
  JSON: JSON.stringify(numbers.map((n) => ({ id: n, name: `user-${n}`, active: n % 2 === 0, tags: ["a", null] }))),
  "JSON, indented": readFileSync("tsconfig.json", "utf8"),
  tables: numbers.map((n) => `${n},Widget ${n % 7},${n / 100},${n % 13}`).join("\n"),
  log: numbers
    .map((n) => `2026-11-21T10:${n % 60}:07.${n}Z INFO GET /v1/models 200 ${n % 90}ms req_${n.toString(16)}`)
    .join("\n"),
  digits: numbers.join(""),
  "numbers apart": numbers.join(" "),
  hexadecimal: Buffer.from(numbers).toString("hex"),
  base64: Buffer.from(numbers).toString("base64"),
  identifiers: numbers.map((n) => `get_user${n % 10}ByAccountId`).join(" "),
  capitals: "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG, AND EVERYBODY IN THE VILLAGE KNOWS THAT IT DOES SO EVERY DAY.",
  emoji: "Great job! 🎉🎉 See you at 8 😀👍 Don't forget the cake 🎂❤️ and the flags 🇩🇪🇯🇵, family 👨‍👩‍👧‍👦 and 👩🏽‍💻",
  formulas: "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ∑ᵢ xᵢ² ≤ ∫₀^∞ e^{-x²} dx, ℕ ⊆ ℤ ⊂ ℚ",
  frames: "┌─────┬─────┐\n│ a   │ b   │\n├─────┼─────┤\n│ 1   │ 2   │\n└─────┴─────┘",
  blanks: numbers.map((n) => `${" ".repeat(n % 12)}${n % 3 === 0 ? "\n" : "\t"}word`).join(""),
};
const samples = Object.entries({ ...prose, ...signs });

const ratio = (text: string): number => estimateTokens(text) / encode(text).length;

describe("the estimate of a text's tokens", () => {
  test.each(samples)("of %s is not far below the real count, nor twice as much", (_, text) => {
    expect(ratio(text)).toBeGreaterThanOrEqual(0.8);
    expect(ratio(text)).toBeLessThanOrEqual(1.75);
  });

  test(`of mixtures is the same (SEED=${seed})`, () => {
    const next = random(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
    for (let round = 0; round < trials(2_000); round++) {
      const pieces = Array.from({ length: 1 + Math.floor(next() * 5) }, () => {
        const text = pick(samples)[1];
        const from = Math.floor((next() * text.length) / 2);
        return text.slice(from, from + 120 + Math.floor(next() * 400)) + pick(["", " ", "\n", "\n\n"]);
      });
      const text = pieces.join("").toWellFormed();
      expect(ratio(text), JSON.stringify(text)).toBeGreaterThanOrEqual(0.8);
      expect(ratio(text), JSON.stringify(text)).toBeLessThanOrEqual(1.75);
    }
  });

  test("of nothing is none, and of anything at least one", () => {
    expect(estimateTokens("")).toBe(0);
    for (const text of ["a", "A", "1", ".", "\n", "\0", "é", "я", "字", "한", "😀", "\ud800", "\u0301"]) {
      expect(estimateTokens(text), JSON.stringify(text)).toBeGreaterThanOrEqual(1);
    }
  });

  test("of short texts is off by few", () => {
    for (const text of ["hi", "Hello!", "Tell me about Spain", "ok?", "¿Qué?", "Straße", "你好", "こんにちは", "42"]) {
      expect(Math.abs(estimateTokens(text) - encode(text).length), text).toBeLessThanOrEqual(3);
    }
  });

  test("grows with its text, and is about what its parts come to", () => {
    for (const [, text] of samples) {
      const whole = estimateTokens(text);
      const half = Math.floor(text.length / 2);
      const parts = estimateTokens(text.slice(0, half)) + estimateTokens(text.slice(half));
      expect(Math.abs(whole - parts)).toBeLessThanOrEqual(5);
    }
  });
});
